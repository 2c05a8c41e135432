"""Arithmetic of data parallel training (`benchmarks/scaling.py`)."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

SCALING = runpy.run_path(str(Path(__file__).resolve().parents[2] / "benchmarks/scaling.py"))


def test_the_gradients_are_those_of_the_trained_weights():
    assert SCALING["gradient_bytes"]("test_resnet", "15-1", 20) == pytest.approx(4 * 1.6e6, rel=0.5)


def test_what_does_not_hide_is_waited_for():
    seconds = SCALING["seconds"]
    assert seconds(1, 0.05, 10**9, 1.0) == 0.05
    assert seconds(8, 0.05, 3 * 10**8, 1.0) == 0.05  # 1.75 ms within a machine
    # two machines: 0.3 GB through a link of 10 GB/s and the 1.75 ms, less two thirds of an update
    assert seconds(16, 0.03, 3 * 10**8, 10e9) == pytest.approx(0.03 + 0.03 + 0.00175 - 0.02)
