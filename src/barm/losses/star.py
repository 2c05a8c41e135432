"""STAR's losses: the labels' with replayed negatives, old features maintained, new classes kept apart from old ones.

Source: STAR, Chen et al., NeurIPS 2023; spec/star.md section 5.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from barm.batch import Term
from barm.losses.common import count, where_counted


def replayed_cross_entropy(
    labelled: Term, logits: Tensor, background: Tensor, drawn: Tensor, *, repetition: float
) -> Term:
    """Add negatives that the step lacks to the binary cross-entropy of its labels (section 5.1).

    Everything is weighed by cells of the feature grid: those of the batch, drawn features, repeated background.

    Args:
        labelled: `multiple_binary_cross_entropy` of the step's labels.
        logits: of the new classes, ``(N, K, h, w)``.
        background: cells that are background to the labels and to the previous network, ``(N, h, w)`` bool.
        drawn: logits of the new classes for drawn features, ``(R, K)``; R may be 0.
        repetition: weight of those cells.
    """
    cells = background.numel()
    missing = F.softplus(drawn).sum()
    if repetition:
        missing = missing + repetition * where_counted(background.unsqueeze(1), F.softplus(logits)).sum()
    number = background.sum().double() * repetition + (cells + len(drawn))
    return Term(labelled.total * (cells / labelled.number) + missing, number)


def maintained_features(feature: Tensor, old: Tensor, region: Tensor) -> Term:
    """Squared distance of the features to the previous network's where that sees an old class (OCFM, section 5.2).

    Args:
        feature: the classifier's input, ``(N, D, h, w)``.
        old: of the previous network, same shape.
        region: pixels of background in which it sees an old class, ``(N, H, W)`` bool.

    Returns:
        A mean over cells and channels; without such a pixel sum and number are 0.
    """
    share = _resized(region, feature, lambda inside: inside)
    distance = where_counted(share.unsqueeze(1), (feature - old) ** 2) * share.unsqueeze(1)
    return Term(distance.sum(), share.sum() * feature.shape[1])


def similarity_to_prototypes(feature: Tensor, label: Tensor, prototypes: Tensor, *, first: int, number: int) -> Term:
    """Reciprocal distance of every new class's centre to the nearest old prototype (SAD, section 5.3).

    The centre is that of the process's part of the batch; a class that is not in it counts 1, without a gradient.

    Args:
        feature: the classifier's input, ``(N, D, h, w)``.
        label: channels, ``(N, H, W)`` int64.
        prototypes: of the old classes, ``(O, D)``; without any the term is 0.
        first: channel of the first new class.
        number: of new classes.
    """
    if not len(prototypes):
        return Term(feature.new_zeros(()), count(1, feature))
    classes = torch.arange(first, first + number, device=label.device).view(-1, 1, 1)
    share = _resized(label, feature, lambda picked: picked.unsqueeze(1) == classes)
    centre = F.normalize(torch.einsum("nkhw,ndhw->kd", share, F.normalize(feature, dim=1, eps=1e-12)), dim=1, eps=1e-12)
    nearest = (centre.unsqueeze(1) - prototypes).norm(dim=2).min(dim=1).values
    return Term((1 / nearest).mean(), count(1, feature))


def _resized(pixels: Tensor, like: Tensor, mask: Callable[[Tensor], Tensor]) -> Tensor:
    """Resize a mask bilinearly to the grid of `like` without making it at the labels' size.

    Of every cell's pixels bilinear resizing takes four.

    Args:
        pixels: ``(N, H, W)``.
        like: ``(N, D, h, w)``.
        mask: from values ``(N, h, w)`` to zeros and ones, ``(N, ..., h, w)``.
    """
    rows, columns = (
        _taps(source, target, like) for source, target in zip(pixels.shape[1:], like.shape[2:], strict=True)
    )
    parts = [
        down.unsqueeze(1) * across * mask(pixels.index_select(1, row).index_select(2, column))
        for row, down in rows
        for column, across in columns
    ]
    return sum(parts[1:], start=parts[0])


def _taps(source: int, target: int, like: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Both pixels that each of `target` places is mixed from, with their weights."""
    at = (torch.arange(target, device=like.device, dtype=like.dtype) + 0.5) * (source / target) - 0.5
    at = at.clamp(min=0)
    low = at.long()
    share = at - low
    return (low, 1 - share), ((low + 1).clamp(max=source - 1), share)
