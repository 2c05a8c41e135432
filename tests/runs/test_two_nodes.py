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
from barm.engine.checkpoint.directory import RunDirectory
from barm.errors import UserError

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


def test_processes_that_torchrun_starts_again_resume(tiny, tmp_path, monkeypatch):
    """The first time, a folder with a run in it is refused; a restart before anything was written begins."""
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    fit(tiny("barm", "2-1"), out=tmp_path / "run", steps=[0], quiet=True)
    fit(tiny("barm", "2-1"), out=tmp_path / "run", steps=[1], quiet=True)
    assert RunDirectory(tmp_path / "run").finished_steps() == [0, 1]
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    with pytest.raises(UserError, match="--resume"):
        fit(tiny("barm", "2-1"), out=tmp_path / "run", steps=[2], quiet=True)
