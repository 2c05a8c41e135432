"""Prototype replay: statistics of the classes' features, how much of them a later step replays, and the drawing.

A *cell* is a place of the feature grid; its label is that of the pixel in its middle. Source: STAR, Chen et al.,
NeurIPS 2023; spec/star.md sections 3 and 4.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from barm.labels import IGNORE

SHARED_BACKGROUND = 0.5  # of a step's background cells, held to be in the earlier steps' too (spec/star.md 4.2, Q11)
HIDDEN_BY_A_CLASS = 0.01  # of the earlier background, held to be one new class


class Statistics(NamedTuple):
    """Features of some classes, in learning order.

    Attributes:
        prototype: mean direction, of norm 1; 0 for a class that was in no cell, ``(C, D)``.
        spread: deviation of the direction per channel, ``(C, D)``.
        mean: of the norm, ``(C,)``.
        deviation: of the norm, ``(C,)``.
    """

    prototype: Tensor
    spread: Tensor
    mean: Tensor
    deviation: Tensor

    @property
    def known(self) -> Tensor:
        """Whether a class was in any cell, ``(C,)`` bool."""
        return self.prototype.abs().sum(1) > 0

    @classmethod
    def empty(cls, number: int, width: int) -> Statistics:
        """Statistics of classes that were in no cell."""
        wide, one = torch.zeros(number, width), torch.zeros(number)
        return cls(wide, wide, one, one)


class Plan(NamedTuple):
    """What an update replays.

    Attributes:
        features: number of drawn features per old class and update of all processes.
        repetition: weight of a background cell beside its share in the labels' loss.
    """

    features: tuple[int, ...]
    repetition: float


def label_cells(label: Tensor, size: tuple[int, int]) -> Tensor:
    """Pick the label in the middle of every cell, ``(N, H, W)`` -> ``(N, h, w)``.

    >>> label_cells(torch.arange(32).view(1, 1, 32), (1, 2))
    tensor([[[ 8, 24]]])
    """
    rows, columns = (
        (2 * torch.arange(cells, device=label.device) + 1) * pixels // (2 * cells)
        for pixels, cells in zip(label.shape[1:], size, strict=True)
    )
    return label.index_select(1, rows).index_select(2, columns)


def cell_counts(cells: Tensor, *, first: int, number: int) -> Tensor:
    """Count the cells of background and of `number` classes from channel `first` on, ``(1 + number,)`` int64."""
    found = torch.bincount(cells.flatten(), minlength=IGNORE + 1)
    return torch.cat([found[:1], found[first : first + number]])


def feature_sums(feature: Tensor, cells: Tensor, *, first: int, number: int) -> dict[str, Tensor]:
    """Sums over the cells of each new class, from which `statistics` follow, float64.

    Args:
        feature: the classifier's input, ``(N, D, h, w)``.
        cells: labels of the cells, ``(N, h, w)`` int64.
        first: channel of the first new class.
        number: of new classes, K.

    Returns:
        Of the directions and their squares ``(K, D)``, of the norms and their squares ``(K,)``.
    """
    chosen = (cells >= first) & (cells < first + number)
    values = feature.permute(0, 2, 3, 1)[chosen].double()
    shown = F.one_hot(cells[chosen] - first, number).double().T  # products of matrices give the same bits every time
    norm = values.norm(dim=1, keepdim=True)
    unit = values / norm.clamp(min=1e-12)
    return {
        "unit": shown @ unit,
        "unit_square": shown @ unit**2,
        "norm": (shown @ norm)[:, 0],
        "norm_square": (shown @ norm**2)[:, 0],
    }


def statistics(
    sums: Mapping[str, Tensor], cells: Tensor, earlier: Tensor, *, own_reference: bool = False
) -> Statistics:
    """Statistics of a step's new classes.

    Args:
        sums: as `feature_sums`, of all batches.
        cells: number of cells per new class, ``(K,)``.
        earlier: prototypes of the old classes, ``(O, D)``.
        own_reference: measure a class's spread around its own prototype. The release measures that of a step's j-th
            class around the prototype of the j-th class of the whole sequence (spec/star.md Q1).

    Returns:
        Float32. Without any cell all is 0; with one the norm's deviation is.
    """
    some = cells.clamp(min=1).double().unsqueeze(1)
    prototype = F.normalize(sums["unit"], dim=1)
    reference = prototype if own_reference else torch.cat([earlier.to(prototype), prototype])[: len(prototype)]
    mean, square = sums["unit"] / some, sums["unit_square"] / some
    variance = torch.where(cells.unsqueeze(1) > 0, square - 2 * reference * mean + reference**2, 0.0)
    norm = sums["norm"] / some[:, 0]
    scatter = (sums["norm_square"] - cells * norm**2).clamp(min=0) / (cells - 1).clamp(min=1)
    found = Statistics(prototype, variance.clamp(min=0).sqrt(), norm, torch.where(cells > 1, scatter, 0.0).sqrt())
    return Statistics(*(part.float() for part in found))


def teacher_labels(logits: Tensor) -> Tensor:
    """The previous network's class where its logit is above one half, else 0: ``(N, K, H, W)`` -> ``(N, H, W)`` int64.

    The bound is on the logit, as released; a prediction's is on the probability (spec/star.md Q2).

    >>> teacher_labels(torch.tensor([0.4, 0.6]).view(1, 1, 1, 2))
    tensor([[[0, 1]]])
    """
    best, channel = logits.max(dim=1)
    return torch.where(best > 0.5, channel + 1, 0)


def teacher_counts(taught: Tensor, cells: Tensor, num_old: int) -> Tensor:
    """Count what the previous network sees in the background, ``(K,)`` int64: background, then the old classes.

    Args:
        taught: its labels of the cells, ``(N, h, w)``.
        cells: the step's labels of the cells, ``(N, h, w)``.
        num_old: K, with background.
    """
    return torch.bincount(taught[cells == 0], minlength=num_old)


def replay_plan(before: Tensor, seen: Tensor, *, num_new: int, per_epoch: int, overlap: bool) -> Plan:
    """Decide how much of the earlier steps a step lacks.

    Args:
        before: cells of the earlier steps: background, then the old classes, ``(K,)``.
        seen: the same in this step's background, by `teacher_counts`.
        num_new: number of new classes.
        per_epoch: updates per epoch.
        overlap: whether the step's images may be earlier steps' too.
    """
    classes = (before - seen if overlap else before)[1:].double() / per_epoch
    background, there = missing_background(before, num_new=num_new, overlap=overlap), float(seen[0])
    repetition = background / there - (SHARED_BACKGROUND if overlap else 0.0) if there else 0.0
    return Plan(tuple(max(0, int(n)) for n in classes.tolist()), max(0.0, repetition))


def missing_background(before: Tensor, *, num_new: int, overlap: bool) -> float:
    """Background cells of the earlier steps that are still background. Arguments as for `replay_plan`."""
    return float(before[0]) * (1 - HIDDEN_BY_A_CLASS * num_new if overlap else 1.0)


def counts_after(before: Tensor, seen: Tensor, new: Tensor, *, overlap: bool) -> Tensor:
    """Cells that the next step counts as the earlier steps', ``(1 + classes,)`` float64.

    Args:
        before: as for `replay_plan`.
        seen: as for `replay_plan`.
        new: cells of the new classes, ``(num_new,)``.
        overlap: as for `replay_plan`.
    """
    background = missing_background(before, num_new=len(new), overlap=overlap)
    background += float(seen[0]) * (SHARED_BACKGROUND if overlap else 1.0)
    classes = (before if overlap else before + seen)[1:].double()
    return torch.cat([classes.new_tensor([background]), classes, new.double()])


def order_of_drawing(features: tuple[int, ...]) -> Tensor:
    """Class of every drawn feature, ``(R,)`` int64.

    >>> order_of_drawing((2, 0, 1))
    tensor([0, 0, 2])
    """
    return torch.repeat_interleave(torch.arange(len(features)), torch.tensor(features, dtype=torch.int64))


def drawn_features(known: Statistics, order: Tensor, direction: Tensor, norm: Tensor) -> Tensor:
    """Features from statistics and standard normals, ``(R, D)``; they may be negative.

    Args:
        known: statistics of the old classes.
        order: class of each feature, ``(R,)``.
        direction: normals, ``(R, D)``.
        norm: normals, ``(R, D)``: one per channel, as released, so the norm itself hardly varies (spec/star.md Q3).
    """
    unit = known.prototype[order] + known.spread[order] * direction
    return unit * (known.mean[order].unsqueeze(1) + known.deviation[order].unsqueeze(1) * norm)
