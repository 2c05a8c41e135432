"""What a step reached: every score of ``metrics.json``, derived from confusion counts."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from barm.labels import Step
from barm.metrics import (
    average_miou,
    class_accuracy,
    class_iou,
    forgetting,
    group_means,
    harmonic_mean,
    mean,
    overall_accuracy,
)


def step_metrics(
    counts: Sequence[Any], step: Step, class_names: Sequence[str], labelled: Container[int] | None = None
) -> dict[str, Any]:
    """Every score of a step from the counts of all steps so far.

    Args:
        counts: per step, the last one's last.
        step: the last one.
        class_names: by id, background first.
        labelled: ids of the classes that the pictures' masks know, all by default. The scores of the others are None,
            and so is that of background where the masks know none of the older classes (of step 0: of its own).

    A class that no pixel shows is not measured: its scores are None too.
    """
    names = [class_names[i] for i in (0, *step.seen)]
    num_base = 1 + step.group_sizes[0]
    unlabelled = _unknown(step, labelled)
    unknown = unlabelled | (np.asarray(counts[-1]).sum(1) == 0)
    ious = [_without(class_iou(c), unknown) for c in counts]
    accuracy = _without(class_accuracy(counts[-1]), unknown)
    miou, hits = (_means(values, unlabelled, num_base) for values in (ious[-1], accuracy))
    scores = {
        "step": step.index,
        "learned": [class_names[i] for i in step.new],
        "miou": miou,
        "harmonic_miou": harmonic_mean(miou["old"], miou["new"]) if "new" in miou else None,
        "accuracy": hits,
        "overall_accuracy": overall_accuracy(counts[-1]),
        "average_miou": average_miou(ious),
        "forgetting": forgetting(ious),
        "class_iou": dict(zip(names, ious[-1].tolist(), strict=True)),
        "class_accuracy": dict(zip(names, accuracy.tolist(), strict=True)),
    }
    return {key: _none_for_nan(value) for key, value in scores.items()}


def unmeasured(metrics: Mapping[str, Any]) -> list[str]:
    """Names of the classes that no picture labels, of which `step_metrics` has no score."""
    return [name for name, iou in metrics["class_iou"].items() if iou is None]


def _means(values: NDArray[np.float64], unlabelled: NDArray[np.bool_], num_base: int) -> dict[str, float]:
    """`group_means`; the one over all classes leaves out a group that no picture shows, but not one without labels."""
    means = group_means(values, num_base)
    if not any(group.all() for group in (unlabelled[:num_base], unlabelled[num_base:]) if len(group)):
        means["all"] = mean(values)
    return means


def _unknown(step: Step, labelled: Container[int] | None) -> NDArray[np.bool_]:
    """Which channels have no truth, ``(C,)``."""
    if labelled is None:
        return np.zeros(step.num_seen, bool)
    old, new = ([i in labelled for i in ids] for ids in (step.old, step.new))
    return ~np.array([any(old or new), *old, *new])


def _without(values: NDArray[np.float64], unknown: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The values of an earlier or this step, NaN where there is no truth."""
    return np.where(unknown[: len(values)], np.nan, values)


def _none_for_nan(value: Any) -> Any:
    """NaN, which JSON does not have, as None, in dicts too."""
    if isinstance(value, dict):
        return {key: _none_for_nan(v) for key, v in value.items()}
    return None if isinstance(value, float) and np.isnan(value) else value
