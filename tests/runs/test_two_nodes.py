"""Two machines, network namespaces of this one, of which one is lost and found (`benchmarks/two_nodes.py`)."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from barm.api import fit
from barm.data.sources.shapes_disk import make_shapes
from barm.engine.checkpoint.directory import RunDirectory
from barm.errors import UserError
from barm.extension.run import extend

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks/two_nodes.py"


@pytest.mark.long
@pytest.mark.skipif(shutil.which("ip") is None or os.geteuid() != 0, reason="needs `ip` and the rights of root")
def test_two_machines(tmp_path):
    command = [sys.executable, str(SCRIPT), "--out", str(tmp_path)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    alone, restarted = (float(n) for n in re.findall(r"^(?:two machines, )?weights from .*: (\S+)$", printed, re.M))
    assert alone <= 1e-5
    assert restarted == 0
    assert "the second machine's folder holds no run: True" in printed


@pytest.fixture
def elastic(monkeypatch):
    """A function that lets torchrun have started this process so many times before."""

    def start(count: int, name: str = "one") -> None:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", name)
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", str(count))

    return start


def test_processes_that_torchrun_starts_again_resume(elastic, tiny, tmp_path):
    """A restart before anything was written begins; the first start refuses a folder with a run in it."""
    elastic(1)
    fit(tiny("barm", "2-1"), out=tmp_path / "run", steps=[0], quiet=True)
    fit(tiny("barm", "2-1"), out=tmp_path / "run", steps=[1], quiet=True)
    assert RunDirectory(tmp_path / "run").finished_steps() == [0, 1]
    elastic(0)
    with pytest.raises(UserError, match="--resume"):
        fit(tiny("barm", "2-1"), out=tmp_path / "run", steps=[2], quiet=True)


def test_a_restart_does_not_go_on_with_another_run(elastic, tiny, tmp_path):
    """One that torchrun's first start has refused is refused by all later ones."""
    fit(tiny("barm", "2-1"), out=tmp_path / "plain", steps=[0], quiet=True)
    elastic(0, "other")
    fit(tiny("barm", "2-1"), out=tmp_path / "others", steps=[0], quiet=True)
    for run in ("plain", "others"):
        elastic(1)
        with pytest.raises(UserError, match="exists already"):
            fit(tiny("barm", "2-1"), out=tmp_path / run, steps=[1], quiet=True)


def test_a_resumed_run_belongs_to_who_resumed_it(elastic, tiny, tmp_path):
    fit(tiny("barm", "2-1"), out=tmp_path / "run", steps=[0], quiet=True)
    elastic(0)
    fit(tiny("barm", "2-1"), out=tmp_path / "run", steps=[1], resume=True, quiet=True)
    elastic(1)
    fit(tiny("barm", "2-1"), out=tmp_path / "run", steps=[2], quiet=True)
    assert RunDirectory(tmp_path / "run").finished_steps() == [0, 1, 2]


def test_an_extension_goes_on_too(elastic, tiny_run, tmp_path):
    make_shapes(tmp_path / "new", num_classes=5, num_train=8, num_val=2, size=(48, 48), seed=4)
    name = (tmp_path / "new/classes.txt").read_text("utf-8").split("\n")[4]
    elastic(0)
    words = {"classes": [name], "out": tmp_path / "more", "overrides": ["increment.epochs=1"], "quiet": True}
    extend(tiny_run, tmp_path / "new", **words)
    with pytest.raises(UserError, match="exists already"):
        extend(tiny_run, tmp_path / "new", **words)
    elastic(1)
    assert extend(tiny_run, tmp_path / "new", **words)["learned"] == [name]
