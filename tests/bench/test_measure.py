"""Times and memory of calls."""

from __future__ import annotations

import os

import pytest
import torch

from barm.bench.measure import side_by_side


def test_everything_is_called_in_turn():
    calls: list[str] = []
    costs = side_by_side({n: lambda n=n: calls.append(n) for n in "ab"}, torch.device("cpu"), rounds=2)
    assert "".join(calls[:6]) == "ababab"  # one round warms up
    assert costs["a"].least <= costs["a"].median <= costs["a"].most
    assert costs["a"].processor is not None
    assert 0 <= costs["a"].processor <= costs["a"].most * (os.cpu_count() or 1) + 1e-3


def test_memory_is_what_a_call_needs():
    costs = side_by_side({"large": lambda: torch.ones(32 << 20), "none": lambda: None}, torch.device("cpu"), rounds=1)
    if costs["large"].memory is None:
        pytest.skip("this system does not tell a process's peak")
    assert costs["large"].memory > 100 << 20
    assert costs["none"].memory < 10 << 20
