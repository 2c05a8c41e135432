"""Ticks and thinned lines."""

from __future__ import annotations

from barm.report.page import charts


def test_ticks_and_thinning():
    assert charts.nice_ticks(0, 0.07) == [0.0, 0.02, 0.04, 0.06, 0.08]
    assert charts.nice_ticks(5, 5)[0] <= 5 <= charts.nice_ticks(5, 5)[-1]
    assert charts.thinned([1, 2, 3, 4, 5], [1, 3, 5, 7, 9], 3) == ([2, 4, 5], [2, 6, 9])
