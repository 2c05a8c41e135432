"""Segmentation losses by name: binary cross-entropy, cross-entropy or focal loss."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from barm.batch import Term
from barm.labels import IGNORE
from barm.losses.balanced import balanced_binary_cross_entropy
from barm.losses.common import ELSEWHERE, binary_cross_entropy, cross_entropy, focal_loss
from barm.ops.upsampled import path_of, sum_pixels

SEGMENTATION_LOSSES = {"bce": binary_cross_entropy, "ce": cross_entropy, "focal": focal_loss}


def segmentation(
    loss: str,
    logits: Tensor,
    label: Tensor,
    *,
    trained: Sequence[int] | None = None,
    positive: Tensor | None = None,
) -> Term:
    """Compute the segmentation loss of the labels.

    Args:
        loss: a name in `SEGMENTATION_LOSSES`.
        logits: at feature resolution, ``(N, C, h, w)``.
        label: channels, ``(N, H, W)`` int64.
        trained: channels that get a gradient; all by default. The others of a binary cross-entropy do not influence
            these: their part of the value is computed when somebody asks for it.
        positive: weights of the channels' own pixels in a binary cross-entropy, ``(C,)``; 1 by default.
    """
    if positive is not None:
        return _balanced(logits, label, positive, trained)
    formula = SEGMENTATION_LOSSES[loss]
    if trained is None:
        return sum_pixels(formula, logits, label)
    total = logits.shape[1]
    learned, still = tuple(trained), tuple(c for c in range(total) if c not in trained)
    if formula is not binary_cross_entropy or path_of(formula, logits) == "plain":
        fixed = (numbering(learned, total, logits.device) == ELSEWHERE)[:total]
        return sum_pixels(formula, torch.where(fixed.view(1, -1, 1, 1), logits.detach(), logits), label)
    term = sum_pixels(formula, _channels(logits, learned), renumbered(label, learned, total))
    constant = logits.detach()
    return term._replace(
        rest=lambda: sum_pixels(formula, _channels(constant, still), renumbered(label, still, total)).total
    )


def _balanced(logits: Tensor, label: Tensor, positive: Tensor, trained: Sequence[int] | None) -> Term:
    """Compute the balanced binary cross-entropy of all channels, or of those that are trained alone."""
    if trained is None:
        return sum_pixels(balanced_binary_cross_entropy, logits, label, positive=positive)
    total = logits.shape[1]
    learned, still = tuple(trained), tuple(c for c in range(total) if c not in trained)

    def of(values: Tensor, channels: tuple[int, ...]) -> Term:
        weights = _channels(positive.unsqueeze(0), channels).squeeze(0)
        picked, own = _channels(values, channels), renumbered(label, channels, total)
        return sum_pixels(balanced_binary_cross_entropy, picked, own, positive=weights)

    constant = logits.detach()
    return of(logits, learned)._replace(rest=lambda: of(constant, still).total)


def renumbered(label: Tensor, channels: Sequence[int], total: int) -> Tensor:
    """Map labels to logits that hold only some of `total` channels; the others become `ELSEWHERE`, 255 stays."""
    return numbering(tuple(channels), total, label.device)[label.long()]


@lru_cache(maxsize=32)
def numbering(channels: tuple[int, ...], total: int, device: torch.device) -> Tensor:
    """The table of `renumbered`, with `ELSEWHERE` for absent channels. Cached, since a copy to a GPU waits for it."""
    with torch.inference_mode(False):
        table = torch.full((max(IGNORE + 1, total),), ELSEWHERE)
        table[IGNORE] = IGNORE
        table[list(channels)] = torch.arange(len(channels))
        return table.to(device)


@lru_cache(maxsize=32)
def _positions(channels: tuple[int, ...], device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.tensor(channels, dtype=torch.int64, device=device)


def _channels(logits: Tensor, channels: tuple[int, ...]) -> Tensor:
    """Select channels of ``(N, C, ...)``."""
    return logits.index_select(1, _positions(channels, logits.device))
