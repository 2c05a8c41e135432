"""The faults of `tests/mutants.py` can be put into this tree."""

from __future__ import annotations

from pathlib import Path

import pytest

from mutants import FAULTS, places

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault[1][:40])
def test_a_fault_has_one_place(fault):
    assert len(places(fault[0], ROOT)) == 1
