"""What a report says of a run's provenance."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from barm.api import fit
from barm.data.saliency.record import Recipe
from barm.engine.monitor import unread_log
from barm.report.build import write_report
from barm.report.history import read_run


@pytest.mark.parametrize(
    ("recipe", "line"),
    [
        (None, "of unknown origin"),
        (
            Recipe(tool="onnxruntime", version="1", file="<u2>.onnx", sha256="0" * 64, settings={"input size": "8x8"}),
            "<u2>.onnx (sha256 000000000000), 8x8",
        ),
    ],
)
def test_the_report_says_which_saliency_maps_were_used(shapes_voc, tiny, tmp_path, recipe, line):
    root = shutil.copytree(shapes_voc, tmp_path / "data")
    if recipe is not None:
        (root / "saliency_map/saliency.json").write_text(recipe.model_dump_json())
    config = tiny("ssul", "2-1")
    config = config.model_copy(update={"data": config.data.model_copy(update={"root": root})})
    fit(config, out=tmp_path / "run", steps=[0], quiet=True)
    assert read_run(tmp_path / "run", "ssul").provenance["saliency maps"] == line
    text = write_report([tmp_path / "run"], tmp_path / "report.html", images=0).read_text("utf-8")
    assert f"<dt>saliency maps</dt><dd>{line.replace('<', '&lt;').replace('>', '&gt;')}</dd>" in text


@pytest.mark.parametrize("kind", ["pipe", "folder", "empty", "bytes", "some"])
def test_a_log_that_cannot_be_read_is_told_on_the_page_and_beside_it(kind, tiny_run, tmp_path, cli):
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    log = run / "log.csv"
    lines = log.read_text().splitlines(keepends=True)
    log.unlink()
    if kind == "pipe":
        os.mkfifo(log)
    elif kind == "folder":
        log.mkdir()
    else:
        lines[2:4] = ["what is this\n", "1,2\n"]
        log.write_bytes({"empty": b"", "bytes": bytes(range(256)), "some": "".join(lines).encode()}[kind])
    status, _, err = cli("report", run, "--images", "0")
    told = {
        "pipe": "log.csv is a named pipe, expected a file",
        "folder": "log.csv is a folder, expected a file",
        "empty": "log.csv is empty",
        "bytes": "of log.csv cannot be read",
        "some": f"2 of the {len(lines) - 1} lines of log.csv cannot be read",
    }[kind]
    assert status == 0
    assert err.count("\n") == 1
    assert "warning: " in err
    assert told in err
    assert f"curves lack values: {told.partition(' of log')[0]}" in (run / "report.html").read_text() or kind == "bytes"


@pytest.mark.parametrize("left", [b"", b"0,0,1,loss"])
def test_a_log_of_a_killed_run_is_none(left, tiny_run, tmp_path):
    """Its last line may be cut short."""
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    assert unread_log(run) == ""
    with (run / "log.csv").open("ab") as file:
        file.write(left)
    assert unread_log(run) == ""
    (run / "log.csv").unlink()
    assert unread_log(run) == ""


def test_methods_without_maps_say_nothing_of_them(tiny_run):
    assert "saliency maps" not in read_run(tiny_run, "barm").provenance
