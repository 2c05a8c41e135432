"""Learning rate schedules as functions of the iteration.

Source: spec/barm.md section 4, spec/ssul.md section 10, spec/dkd.md section 6, spec/mib.md section 8. Iterations are
whole numbers everywhere; only the length of a warm-up is rounded, by one method and not by another.
"""

from __future__ import annotations

from barm.engine.config import Policy, StepRecipe

POLY_POWER, POLY_FLOOR = 0.9, 1e-6
WARM_UP_START = 1e-3
STEP_FACTOR = 0.1


def learning_rate(
    policy: Policy,
    base: float,
    iteration: int,
    total: int,
    step_size: int = 10_000,
    warm_up: float = 0.1,
    whole: bool = True,
) -> float:
    """The rate of one parameter group.

    Args:
        policy: `poly` ``max(base (1 - i/I)^0.9, 1e-6)``; `warm_poly` the same without floor and with a linear start
            over the first `warm_up` share of the updates; `step` a tenth every `step_size` iterations.
        base: the group's initial rate.
        iteration: i, finished updates; beyond `total` the last rate holds.
        total: I, updates of the step.
        step_size: of the `step` policy.
        warm_up: share of `total`, of the `warm_poly` policy.
        whole: the warm-up's length is rounded down to whole updates; otherwise it is the exact product.

    >>> learning_rate("poly", 1.0, 0, 10), learning_rate("poly", 1e-7, 0, 10)
    (1.0, 1e-06)
    """
    if policy == "step":
        return base * STEP_FACTOR ** (iteration // step_size)
    decay = float((1 - min(iteration, total) / total) ** POLY_POWER)
    if policy == "poly":
        return max(base * decay, POLY_FLOOR)
    rising = int(total * warm_up) if whole else total * warm_up
    factor = WARM_UP_START * (1 - iteration / rising) + iteration / rising if iteration < rising else 1.0
    return base * factor * decay


def scheduled(recipe: StepRecipe, base: float, iteration: int, total: int) -> float:
    """The learning rate of an iteration by a step's recipe."""
    return learning_rate(
        recipe.policy, base, iteration, total, recipe.step_size, recipe.warm_up, whole=recipe.warm_up_whole
    )
