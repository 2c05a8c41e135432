"""Learning rate schedules beside those that golden vectors hold."""

from __future__ import annotations

import pytest

from barm.engine.schedule import learning_rate


@pytest.mark.parametrize(("iteration", "expected"), [(0, 0.5), (99, 0.5), (100, 0.05), (199, 0.05), (250, 0.005)])
def test_a_tenth_every_so_many_updates(iteration, expected):
    """Whatever the length of the step is."""
    assert learning_rate("step", 0.5, iteration, 150, step_size=100) == pytest.approx(expected)


def test_the_last_rate_holds_beyond_the_end():
    assert learning_rate("warm_poly", 0.5, 11, 10) == learning_rate("warm_poly", 0.5, 10, 10) == 0
    assert learning_rate("poly", 0.5, 11, 10) == learning_rate("poly", 0.5, 10, 10) == 1e-6
