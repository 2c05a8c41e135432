"""The losses that BARM adds: background adaptation, background feature distillation, group distillation.

All run at feature resolution. `positive` and `negative` are float masks ``(N, h, w)`` from `step_masks`.
Source of every formula: BARM, Zhang & Gao, ECCV 2024, arXiv 2407.09838; spec/barm.md section 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn import functional as F

from barm.batch import Term
from barm.labels import IGNORE
from barm.losses.common import count, sigmoid_distillation, where_counted


def step_masks(label: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Masks of the step's labelled classes and of its background, at feature resolution.

    Args:
        label: channels of the step's ground truth (before pseudo-labels), ``(N, H, W)`` int64.
        size: ``(h, w)``.

    Returns:
        Positive (label not 0, not 255) and negative (label 0) masks, ``(N, h, w)`` float, resized nearest-neighbour.
    """
    masks = torch.stack([(label != 0) & (label != IGNORE), label == 0], dim=1).float()
    positive, negative = F.interpolate(masks, size=size, mode="nearest").unbind(1)
    return positive, negative


def residual_cross_entropy(residual: Tensor, positive: Tensor, *, weight: float = 1.0) -> Term:
    """BgA cross-entropy: the residual is trained to be negative on new classes.

    ``sum(P * BCE(a, 0)) / sum(P)``; 0 without a positive pixel.

    Args:
        residual: the newest background adaptation a_T before the sigmoid, ``(N, h, w)``.
        positive: mask of the new classes, ``(N, h, w)``.
        weight: factor in the objective.
    """
    return Term(where_counted(positive, F.softplus(residual)).sum(), positive.sum(), weight)


def residual_triplet(residual: Tensor, negative: Tensor, *, weight: float = 5.0) -> Term:
    """BgA triplet: on background the residual's probability s is trained to be nearer to 1 than to 0.

    ``sum(max(N (s - 1)^2 - N s^2, 0)) / sum(N)``; defined as 0 without a negative pixel (the official code divides
    0 by 0 there: spec/barm.md section 7).

    Args:
        residual: the newest background adaptation a_T before the sigmoid, ``(N, h, w)``.
        negative: mask of the background, ``(N, h, w)``.
        weight: factor in the objective.
    """
    s = torch.sigmoid(residual)
    return Term(where_counted(negative, (s - 1) ** 2 - s**2).clamp(min=0).sum(), negative.sum(), weight)


def background_distillation(
    new: Tensor, old: Tensor, negative: Tensor, *, num_branches: int, weight: float = 4.0
) -> Term:
    """Background feature distillation: on background the branches keep the previous model's features.

    Mean over all elements of ``(f N - f_old N)^2``, summed over the branches (which have equal shapes).

    Args:
        new: the student's branch features side by side, ``(N, T D, h, w)``; those that `old` lacks are not used.
        old: the teacher's, ``(N, num_branches D, h, w)``.
        negative: mask of the background, ``(N, h, w)``.
        num_branches: of the teacher.
        weight: factor in the objective.
    """
    distance = (new[:, : old.shape[1]] - old).square().sum(dim=1)  # the mask is 0 or 1, its own square
    return Term(where_counted(negative, distance).sum(), count(old.numel() // num_branches, negative), weight)


def group_distillation(
    new: Sequence[Tensor], old: Sequence[Tensor], *, weight: float = 1.0, without: Tensor | None = None
) -> Term:
    """Group knowledge distillation: every old head keeps its own probabilities, background channel included.

    BCE with logits against the teacher's sigmoid, mean over batch and space, summed over channels and heads.

    Args:
        new: the student's heads, each ``(N, 1 + group, h, w)``; those beyond ``len(old)`` are not used.
        old: the teacher's.
        weight: factor in the objective.
        without: mask of the pixels where the classes are not distilled, their channel 0 alone, ``(N, h, w)``.
    """
    heads, before = torch.cat(tuple(new[: len(old)]), dim=1), torch.cat(tuple(old), dim=1)
    if without is not None:  # what has no logit to distil has the teacher's, and no gradient
        first = torch.zeros(before.shape[1], dtype=torch.bool, device=before.device)
        first[[0, *accumulate(h.shape[1] for h in old[:-1])]] = True
        heads = torch.where((without == 0).unsqueeze(1) | first.view(1, -1, 1, 1), heads, before)
    return sigmoid_distillation(heads, before, weight=weight)


def old_classes_absent(heads: Sequence[Tensor], positive: Tensor, *, weight: float) -> Term:
    """Binary cross-entropy of the old classes against their absence, where a new class is labelled.

    Summed over the old classes, averaged over these pixels; 0 without one. Beyond the paper, which detaches them.

    Args:
        heads: the student's, the newest last, each ``(N, 1 + group, h, w)``.
        positive: mask of the new classes, ``(N, h, w)``.
        weight: factor in the objective.
    """
    loss = F.softplus(torch.cat([head[:, 1:] for head in heads[:-1]], dim=1)).sum(dim=1)
    return Term(where_counted(positive, loss).sum(), positive.sum(), weight)
