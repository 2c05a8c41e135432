"""Confusion counts and the scores derived from them. Fractions, never percent.

A confusion matrix is ``(C, C)`` int64, row = truth, column = prediction, in channels (0 = background).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

EPSILON = 1e-6  # spec/barm.md section 5: a class that neither occurs nor is predicted scores 0
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
    valid = (label >= 0) & (label < num_classes)
    cell = torch.where(valid, label * num_classes + prediction.long(), num_classes**2)
    counts = torch.bincount(cell.flatten(), minlength=num_classes**2 + 1)[:-1]
    return counts.reshape(num_classes, num_classes)


def class_iou(counts: ArrayLike) -> Scores:
    """Intersection over union per class, ``(C,)``: ``TP / (row + column - TP + 1e-6)``."""
    matrix = np.asarray(counts, np.float64)
    hit = np.diag(matrix)
    return np.asarray(hit / (matrix.sum(0) + matrix.sum(1) - hit + EPSILON))


def class_accuracy(counts: ArrayLike) -> Scores:
    """Share of a class's pixels that are found, ``(C,)``: ``TP / (row + 1e-6)``."""
    matrix = np.asarray(counts, np.float64)
    return np.asarray(np.diag(matrix) / (matrix.sum(1) + EPSILON))


def overall_accuracy(counts: ArrayLike) -> float:
    """Share of all pixels that are right."""
    matrix = np.asarray(counts, np.float64)
    return float(np.trace(matrix) / max(matrix.sum(), 1.0))


def group_means(values: ArrayLike, num_base: int) -> dict[str, float]:
    """Means over the classes of step 0 (``old``, background included), of later steps (``new``) and over ``all``.

    Args:
        values: per channel, ``(C,)``.
        num_base: channels of step 0, background included.

    Returns:
        The three means; no ``new`` where nothing was learned after step 0.
    """
    scores = np.asarray(values, np.float64)
    means = {"all": float(scores.mean()), "old": float(scores[:num_base].mean())}
    if len(scores) > num_base:
        means["new"] = float(scores[num_base:].mean())
    return means


def harmonic_mean(a: float, b: float) -> float:
    """``2 a b / (a + b)``, 0 where both are 0: of old and new mIoU, the hIoU of DKD (spec/dkd.md section 9.2)."""
    return 2 * a * b / (a + b) if a + b else 0.0


def average_miou(per_step: Sequence[ArrayLike]) -> float:
    """Mean over the steps so far of the mIoU over the classes seen at each (each item: class IoU, ``(C_t,)``)."""
    return float(np.mean([np.mean(np.asarray(iou, np.float64)) for iou in per_step]))


def forgetting(per_step: Sequence[ArrayLike]) -> float:
    """How much of the best earlier IoU was lost, mean over the classes known before the last step.

    ``mean_c( max_{t < T} IoU[t, c] - IoU[T, c] )``; 0 at the first step, negative where classes improved.

    Args:
        per_step: class IoU after each step, ``(C_0,), (C_1,) ...`` with growing length.
    """
    rows = [np.asarray(iou, np.float64) for iou in per_step]
    if len(rows) < 2:
        return 0.0
    known = len(rows[-2])
    best = np.full(known, -np.inf)
    for row in rows[:-1]:
        best[: len(row)] = np.maximum(best[: len(row)], row)
    return float((best - rows[-1][:known]).mean())
