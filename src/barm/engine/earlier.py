"""What a step reached, beside what the steps before reached as far as the two may be compared."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from barm.engine.opening import Data
from barm.engine.pictures import Pictures, other_pictures, pictures_of
from barm.engine.scores import step_metrics
from barm.engine.store import COUNTS, PICTURES, RunDirectory
from barm.labels import Step


def scores_of(
    directory: RunDirectory, step: Step, counts: Tensor, data: Data, *, others: bool = False, same_view: bool = True
) -> dict[str, Any]:
    """Every score of a step.

    Args:
        directory: of the run, for the steps before.
        step: the step.
        counts: its confusion counts, ``(C, C)``.
        data: the pictures that it was measured on.
        others: these may be others than the run's, so that steps without a record of theirs are not comparable.
        same_view: it was measured in the way in which the run was.

    Returns:
        As ``metrics.json``; without average mIoU and forgetting where a step before was measured on other pictures or
        in another way.
    """
    earlier = earlier_counts(directory, step.index, pictures_of(data), others=others) if same_view else None
    metrics = step_metrics([*(earlier or []), counts.tolist()], step, data.train.class_names, data.labelled)
    return metrics if earlier is not None else {**metrics, "average_miou": None, "forgetting": None}


def earlier_counts(directory: RunDirectory, index: int, now: Pictures, *, others: bool = False) -> list[Any] | None:
    """Confusion counts of the steps before, of those that have some.

    Args:
        directory: of the run.
        index: of the step.
        now: what the step is measured on.
        others: as in `scores_of`.

    Returns:
        None if one of them was measured on other pictures: no mean over the steps, and no forgetting, exists then.
    """
    steps = [i for i in range(index) if directory.has(i, COUNTS)]
    if others and not all(directory.has(i, PICTURES) for i in steps):
        return None
    records = [directory.read(i, PICTURES) for i in steps if directory.has(i, PICTURES)]
    if any(other_pictures(record, now, trained=False) for record in records):
        return None
    return [directory.read(i, COUNTS) for i in steps]
