"""The commands of docs/teach.md work in their order."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from barm.cli import app

SMALL = (
    *("model.backbone=test_resnet", "model.pretrained=false", "model.channels=16"),
    *("base.epochs=1", "increment.epochs=1", "runtime.workers=0"),
)
SHORTENED = {  # words that are added to a command; of two equal options the last counts
    "barm data make shapes known": ["--train", "60", "--val", "6"],
    "barm train": [word for setting in SMALL for word in ("--set", setting)],
    "barm data make shapes hearts": ["--train", "16", "--val", "6"],
}
BOUNDS = {"short": (0.0, 1.0, 0.0), "whole": (0.7, 0.03, 0.45)}  # known before, lost at most, new


@pytest.mark.slow
@pytest.mark.parametrize("length", ["short", pytest.param("whole", marks=pytest.mark.long)])
def test_tutorial(length, tmp_path, monkeypatch):
    """The commands of docs/teach.md on generated data; at full length little is forgotten, the new class is learned."""
    page = (Path(__file__).parents[2] / "docs" / "teach.md").read_text("utf-8")
    part = page.split("## In five minutes")[1].split("\n## ")[0]
    commands = [line for block in re.findall(r"```bash\n(.*?)```", part, re.S) for line in block.splitlines()]
    assert [c.split()[1] for c in commands] == ["data", "train", "data", "extend", "predict"]
    monkeypatch.chdir(tmp_path)
    for command in commands:
        more = [w for start, words in SHORTENED.items() if command.startswith(start) for w in words]
        done = CliRunner().invoke(
            app, [*shlex.split(command)[1:], *(more if length == "short" else [])], catch_exceptions=False
        )
        assert done.exit_code == 0, done.output
    result = json.loads((tmp_path / "runs/with-hearts/extension.json").read_text("utf-8"))
    known, lost, new = BOUNDS[length]
    assert result["old"]["before"] > known
    assert result["old"]["before"] - result["old"]["after"] <= lost
    assert result["new"] >= new
    assert (tmp_path / "runs/with-hearts/extension.png").is_file()
    assert (tmp_path / "seen/shapes_val_000000_mask.png").is_file()
