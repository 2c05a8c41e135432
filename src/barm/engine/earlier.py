"""What the steps before reached, as far as it may be compared with what a step reaches now."""

from __future__ import annotations

from typing import Any

from barm.engine.pictures import Pictures, other_pictures
from barm.engine.store import COUNTS, PICTURES, RunDirectory


def earlier_counts(directory: RunDirectory, index: int, now: Pictures, *, others: bool = False) -> list[Any] | None:
    """Confusion counts of the steps before, of those that have some.

    Args:
        directory: of the run.
        index: of the step.
        now: what the step is measured on.
        others: these may be others than the run's, so that steps without a record of theirs are not comparable.

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
