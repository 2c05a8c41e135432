"""Scores of ``metrics.json``, derived from confusion counts."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from barm.engine.checkpoint.directory import COUNTS, IMAGES, METHOD, METRICS, RunDirectory
from barm.engine.checkpoint.images import Images, images_of, other_images
from barm.engine.config import Absent
from barm.engine.datasets import Data
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
    counts: Sequence[Any],
    step: Step,
    class_names: Sequence[str],
    labelled: Container[int] | None = None,
    *,
    absent: Absent = "skip",
) -> dict[str, Any]:
    """Compute every score of a step from the counts of all steps so far.

    Args:
        counts: per step, the last one's last.
        step: the last one.
        class_names: by id, background first.
        labelled: ids of the classes that the images' masks know, all by default. The scores of the others are None,
            and so is that of background where the masks know none of the older classes (of step 0: of its own).
        absent: a class that no pixel shows has no score (``skip``), or scores 0 (``zero``, the published evaluation).
    """
    names = [class_names[i] for i in (0, *step.seen)]
    num_base = 1 + step.group_sizes[0]
    unlabelled = _unknown(step, labelled)
    unknown = unlabelled | ((np.asarray(counts[-1]).sum(1) == 0) & (absent == "skip"))
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
    """Names of the classes that no image labels, for which `step_metrics` has no score."""
    return [name for name, iou in metrics["class_iou"].items() if iou is None]


def _means(values: NDArray[np.float64], unlabelled: NDArray[np.bool_], num_base: int) -> dict[str, float]:
    """`group_means` whose mean over all classes leaves out a group without pixels, but not one without labels."""
    means = group_means(values, num_base)
    if not any(group.all() for group in (unlabelled[:num_base], unlabelled[num_base:]) if len(group)):
        means["all"] = mean(values)
    return means


def _unknown(step: Step, labelled: Container[int] | None) -> NDArray[np.bool_]:
    """The channels without ground truth, ``(C,)`` bool."""
    if labelled is None:
        return np.zeros(step.num_seen, bool)
    old, new = ([i in labelled for i in ids] for ids in (step.old, step.new))
    return ~np.array([any(old or new), *old, *new])


def _without(values: NDArray[np.float64], unknown: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The values of this or an earlier step, NaN where there is no ground truth."""
    return np.where(unknown[: len(values)], np.nan, values)


def _none_for_nan(value: Any) -> Any:
    """Replace NaN by None, also in dicts, since JSON has no NaN."""
    if isinstance(value, dict):
        return {key: _none_for_nan(v) for key, v in value.items()}
    return None if isinstance(value, float) and np.isnan(value) else value


def scores_of(
    directory: RunDirectory,
    step: Step,
    counts: Tensor,
    data: Data,
    *,
    absent: Absent,
    others: bool = False,
    same_view: bool = True,
) -> dict[str, Any]:
    """Compute every score of a step.

    Args:
        directory: of the run, for the steps before.
        step: the step.
        counts: its confusion counts, ``(C, C)``.
        data: the images that it was measured on.
        absent: as in `step_metrics`.
        others: the images may be others than the run's; steps without a record of their images are then not comparable.
        same_view: whether it was measured in the same way as the run.

    Returns:
        As ``metrics.json``; without average mIoU and forgetting where a step before was measured on other images or
        in another way.
    """
    earlier = earlier_counts(directory, step.index, images_of(data), others=others) if same_view else None
    metrics = step_metrics(
        [*(earlier or []), counts.tolist()], step, data.train.class_names, data.labelled, absent=absent
    )
    return metrics if earlier is not None else {**metrics, "average_miou": None, "forgetting": None}


def earlier_counts(directory: RunDirectory, index: int, now: Images, *, others: bool = False) -> list[Any] | None:
    """Confusion counts of the earlier steps that have some.

    Args:
        directory: of the run.
        index: of the step.
        now: record of the images on which the step is measured.
        others: as in `scores_of`.

    Returns:
        None if one of them was measured on other images: no mean over the steps, and no forgetting, exists then.
    """
    steps = [i for i in range(index) if directory.has(i, COUNTS)]
    if not all(directory.has(i, IMAGES) for i in steps) and (others or _kept_elsewhere(directory, index)):
        return None
    records = [directory.read(i, IMAGES) for i in steps if directory.has(i, IMAGES)]
    if any(other_images(record, now, trained=False) for record in records):
        return None
    return [directory.read(i, COUNTS) for i in steps]


def measured_alike(run: RunDirectory, index: int, last: int) -> bool:
    """Whether a finished step was measured on the same images as a later one."""
    if index == last or not run.has(last, IMAGES):
        return True
    if not run.has(index, IMAGES):
        return not _kept_elsewhere(run, last)
    return other_images(run.read(index, IMAGES), run.read(last, IMAGES), trained=False) is None


def _kept_elsewhere(run: RunDirectory, last: int) -> bool:
    """Whether steps without a record may have been measured on other images, as in extensions by older versions."""
    return run.has(last, IMAGES) and run.is_extension()


def read_scores(run: RunDirectory) -> list[dict[str, Any]]:
    """Read the scores of every step that was measured on the last one's images, in the form of ``metrics.json``.

    A class that no image shows has no score; older versions counted 0. If an earlier step was measured on other images,
    there is no average and no forgetting.
    """
    steps = [i for i in run.finished_steps() if run.has(i, METRICS)]
    found = []
    for index in (i for i in steps if measured_alike(run, i, steps[-1])):
        metrics = _as_counted_now(run, index)
        alike = all(measured_alike(run, i, index) for i in steps if i < index)
        found.append(metrics if alike else {**metrics, "average_miou": None, "forgetting": None})
    return found


def _as_counted_now(run: RunDirectory, index: int) -> dict[str, Any]:
    """A step's stored scores, recomputed if a class has no pixels, which older versions scored as 0."""
    metrics: dict[str, Any] = run.read(index, METRICS)
    known = [i for i in range(index + 1) if run.has(i, COUNTS)]
    if index not in known or None in metrics["class_iou"].values() or run.config().evaluation.absent == "zero":
        return metrics
    counts = [run.read(i, COUNTS) for i in known]
    if all(sum(row) for row in counts[-1]):
        return metrics
    record = run.read(index, METHOD)
    names = {c["id"]: c["name"] for c in record["classes"]}
    step = Step(index, tuple(tuple(group) for group in record["groups"]))
    return step_metrics(counts, step, [names.get(i, "") for i in range(max(names) + 1)])
