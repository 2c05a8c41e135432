"""Some of the hostile files on every run of the tests; ``python tests/hostile/run.py`` tries all of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_no_traceback_no_hang_nothing_half_written():
    """Every fifteenth case, so that all kinds are among them."""
    script = Path(__file__).with_name("run.py")
    run = subprocess.run(
        [sys.executable, str(script), "--every", "15"], capture_output=True, text=True, timeout=400, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr[-2000:]
    kinds = {line[:26].strip(): line[26:].split() for line in run.stdout.splitlines()}
    assert len(kinds) > 12
    assert int(kinds["all"][0]) >= 29
    assert int(kinds["all"][1]) + int(kinds["all"][2]) == int(kinds["all"][0])
