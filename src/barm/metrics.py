"""Confusion counts and the scores derived from them. Fractions, never percent.

A confusion matrix is ``(C, C)`` int64, row = truth, column = prediction, in channels (0 = background).

A class without a pixel gets 0 from these formulas, as published. Whether that 0 counts is decided elsewhere:
`barm.engine.scores` leaves such a class out of every mean, unless ``evaluation.absent`` is ``zero``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional as F

EPSILON = 1e-6  # spec/barm.md section 5: of a class that neither occurs nor is predicted the formulas make 0
Scores = NDArray[np.float64]


def confusion_counts(prediction: Tensor, label: Tensor, num_classes: int) -> Tensor:
    """Count pixels by truth and prediction.

    Args:
        prediction: channels ``0..C-1``, any shape, integer.
        label: channels of the same shape; values outside ``0..C-1`` (255 among them) are left out.
        num_classes: C, background included.

    Returns:
        ``(C, C)`` int64 on the same device.

    >>> confusion_counts(torch.tensor([0, 1, 1]), torch.tensor([0, 0, 255]), 2).tolist()
    [[1, 1], [0, 0]]
    """
    label = label.long()
    valid = _counted(label, num_classes)
    cell = torch.where(valid, label * num_classes + prediction.long(), num_classes**2)
    counts = torch.bincount(cell.flatten(), minlength=num_classes**2 + 1)[:-1]
    return counts.reshape(num_classes, num_classes)


def _counted(label: Tensor, num_classes: int) -> Tensor:
    """Pixels whose label is a class."""
    return (label >= 0) & (label < num_classes)


def near_borders(label: Tensor, width: int) -> Tensor:
    """Pixels that are at most `width` pixels from a pixel of another class, along either axis, ``(N, H, W)`` bool.

    Args:
        label: channels, ``(N, H, W)``. 255 counts as a class, since VOC draws it around every object.
        width: in pixels.

    >>> near_borders(torch.tensor([[[0, 0, 0, 1, 1, 1]]]), 1).int().tolist()
    [[[0, 0, 1, 1, 0, 0]]]
    """
    value = label.unsqueeze(1).float()
    largest, smallest = (sign * F.max_pool2d(sign * value, 2 * width + 1, 1, width) for sign in (1, -1))
    return (largest > smallest).squeeze(1)


def reliability(probability: Tensor, prediction: Tensor, label: Tensor, num_classes: int, bins: int) -> Tensor:
    """Sums for a reliability diagram: per bin of the predicted class's probability pixels, right ones, probability.

    Args:
        probability: of the predicted class, any shape.
        prediction: its channel.
        label: true channels; values outside ``0..C-1`` are left out.
        num_classes: C, background included.
        bins: equal parts of 0 to 1.

    Returns:
        ``(bins, 3)`` float64 on the same device, which batches and processes can add up.
    """
    valid = _counted(label, num_classes)
    sure, right = probability[valid].double(), (prediction == label)[valid].double()
    place = (sure * bins).long().clamp(0, bins - 1)
    values = torch.stack([torch.ones_like(sure), right, sure], dim=1)
    return values.new_zeros(bins, 3).index_add_(0, place, values)


def calibration_error(bins: Tensor) -> float:
    """Expected calibration error: the mean over pixels of ``|accuracy - mean probability|`` of their bin.

    Args:
        bins: of `reliability`, ``(B, 3)``.

    Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, equation 3.
    """
    pixels, right, sure = bins.unbind(1)
    return float((right - sure).abs().sum() / pixels.sum().clamp(min=1))


def certain(counts: Tensor, known: Sequence[bool]) -> Tensor:
    """Drop from the counts of a partly labelled data set the pixels whose truth is unknown.

    A pixel that is labelled background is left out where a class is predicted that the data set does not label: it may
    be right. Everything else counts: a pixel of a labelled class that is missed, and background that is called one.

    Args:
        counts: ``(C, C)``.
        known: which channels the data set labels, ``(C,)``; the first is background.

    >>> certain(torch.tensor([[5, 2, 3], [1, 4, 1], [0, 0, 0]]), [True, True, False]).tolist()
    [[5, 2, 0], [1, 4, 1], [0, 0, 0]]
    """
    result = counts.clone()
    result[0, ~torch.tensor(known)] = 0
    return result


def class_iou(counts: ArrayLike) -> Scores:
    """Intersection over union per class, ``(C,)``: ``TP / (row + column - TP + 1e-6)``.

    0 for a class without a pixel; ``evaluation.absent`` and `barm.engine.scores` say whether that is a score.
    """
    matrix = np.asarray(counts, np.float64)
    hit = np.diag(matrix)
    return np.asarray(hit / (matrix.sum(0) + matrix.sum(1) - hit + EPSILON))


def class_accuracy(counts: ArrayLike) -> Scores:
    """Share of a class's pixels that are predicted correctly, ``(C,)``: ``TP / (row + 1e-6)``."""
    matrix = np.asarray(counts, np.float64)
    return np.asarray(np.diag(matrix) / (matrix.sum(1) + EPSILON))


def overall_accuracy(counts: ArrayLike) -> float:
    """Share of all pixels that are predicted correctly."""
    matrix = np.asarray(counts, np.float64)
    return float(np.trace(matrix) / max(matrix.sum(), 1.0))


def group_means(values: ArrayLike, num_base: int) -> dict[str, float]:
    """Means over the classes of step 0 (``old``, background included), of later steps (``new``) and over ``all``.

    Args:
        values: per channel, ``(C,)``; NaN where a class was not measured.
        num_base: channels of step 0, background included.

    Returns:
        The three means; no ``new`` where nothing was learned after step 0. NaN for a group of which no class was
        measured, and then for ``all``.
    """
    scores = np.asarray(values, np.float64)
    groups = {"old": scores[:num_base], "new": scores[num_base:]}
    means = {name: mean(group) for name, group in groups.items() if len(group)}
    return {"all": mean(scores) if not np.isnan(list(means.values())).any() else float("nan"), **means}


def mean(values: Scores) -> float:
    """Mean over the values that are not NaN; NaN if there are none."""
    return float(np.mean(values[~np.isnan(values)])) if not np.isnan(values).all() else float("nan")


def harmonic_mean(a: float, b: float) -> float:
    """``2 a b / (a + b)``, 0 where both are 0. Of old and new mIoU it is the hIoU of DKD (spec/dkd.md section 9.2)."""
    return 2 * a * b / (a + b) if a + b else 0.0


def average_miou(per_step: Sequence[ArrayLike]) -> float:
    """Mean over the steps of the mIoU over the classes seen at each step (each item: class IoU, ``(C_t,)``).

    NaN marks classes that were not measured: they are left out. NaN where a step has none that was measured.
    """
    return float(np.mean([mean(np.asarray(iou, np.float64)) for iou in per_step]))


def forgetting(per_step: Sequence[ArrayLike]) -> float:
    """Drop from the best earlier IoU to the last one, mean over the classes known before the last step.

    ``mean_c( max_{t < T} IoU[t, c] - IoU[T, c] )``; 0 at the first step, negative where classes improved. Classes that
    were not measured (NaN) at the last step or at any earlier one are left out; NaN where none is left.

    Args:
        per_step: class IoU after each step, ``(C_0,), (C_1,) ...`` with growing length.
    """
    rows = [np.asarray(iou, np.float64) for iou in per_step]
    if len(rows) < 2:
        return 0.0
    known = len(rows[-2])
    best = np.full(known, np.nan)
    for row in rows[:-1]:
        best[: len(row)] = np.fmax(best[: len(row)], row)
    return mean(best - rows[-1][:known])
