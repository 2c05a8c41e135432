"""The yardstick of the photographs trains and measures a folder of one's own."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from barm.data.sources.shapes_disk import make_shapes

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks/plain_loop.py"


@pytest.mark.slow
def test_a_folder_is_trained_and_measured(tmp_path):
    make_shapes(tmp_path / "data", layout="folder", num_classes=3, num_train=8, num_val=4, size=(64, 64))
    words = [str(tmp_path / "data"), "--updates", "2", "--batch", "2", "--crop", "65"]
    done = subprocess.run([sys.executable, str(SCRIPT), *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    score = re.fullmatch(r"2 updates, seed 1: mIoU ([\d.]+), [\d.]+ s per update\n", done.stdout)
    assert score is not None
    assert 0 < float(score[1]) < 100
