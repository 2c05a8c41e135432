"""Arithmetic of data parallel training (`benchmarks/scaling.py`)."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
from torch import nn

from barm.bench.run import setting_of

SCALING = runpy.run_path(str(Path(__file__).resolve().parents[2] / "benchmarks/scaling.py"))


def test_the_gradients_are_those_of_the_trained_weights():
    """All but batch norm, which is frozen from step 1 on; fp32."""
    setting = setting_of("test_resnet", "15-1", 20, 1, 2, 65, "cpu", "32-true")
    modules = [m for m in setting.method.build_model().modules() if not isinstance(m, nn.BatchNorm2d)]
    expected = 4 * sum(p.numel() for m in modules for p in m.parameters(recurse=False))
    assert SCALING["gradient_bytes"]("test_resnet", "15-1", 20) == expected


def test_what_does_not_hide_is_waited_for():
    seconds = SCALING["seconds"]
    assert seconds(1, 0.05, 10**9, 1.0) == 0.05
    assert seconds(8, 0.05, 3 * 10**8, 1.0) == 0.05  # 1.75 ms within a machine
    # two machines: 0.3 GB through a link of 10 GB/s and the 1.75 ms, less two thirds of an update
    assert seconds(16, 0.03, 3 * 10**8, 10e9) == pytest.approx(0.03 + 0.03 + 0.00175 - 0.02)
