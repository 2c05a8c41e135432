"""Binary cross-entropy in which the pixels of rare classes weigh more."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from barm.batch import Term
from barm.labels import IGNORE
from barm.losses.common import ELSEWHERE, log1p
from barm.ops import triton
from barm.ops.strips import Evaluated
from barm.ops.upsampled import ONE, accelerate


def balanced_binary_cross_entropy(logits: Tensor, label: Tensor, *, positive: Tensor, weight: float = 1.0) -> Term:
    r"""Binary cross-entropy of every channel against the one-hot label, own pixels weighted by the channel.

    .. math:: \ell = \sum_c \bigl(w_c [c = y] \log(1 + e^{-x_c}) + [c \ne y] \log(1 + e^{x_c})\bigr)

    summed over channels, averaged over the pixels whose label is not 255.

    Args:
        logits: before the sigmoid, ``(N, C, H, W)`` float.
        label: channels ``0..C-1``, `IGNORE`, or `ELSEWHERE` where no channel is the pixel's, ``(N, H, W)`` int64.
        positive: w, ``(C,)`` float.
        weight: factor in the objective.

    >>> import torch
    >>> term = balanced_binary_cross_entropy(
    ...     torch.zeros(1, 2, 1, 2), torch.tensor([[[1, 255]]]), positive=torch.tensor([1.0, 3.0])
    ... )
    >>> round(float(term.value), 4), int(term.number)          # (1 + 3) log 2, one valid pixel
    (2.7726, 1)
    """
    valid = label != IGNORE
    here = valid & (label != ELSEWHERE)
    place = label.masked_fill(~here, 0)
    own = logits.gather(1, place.unsqueeze(1)).squeeze(1)
    change = positive[place] * F.softplus(-own) - F.softplus(own)
    loss = F.softplus(logits).sum(1) + change.masked_fill(~here, 0.0)
    return Term(loss.masked_fill(~valid, 0.0).sum(), valid.sum(), weight)


def class_counts(label: Tensor, channels: int) -> Tensor:
    """Count the pixels of every channel, ``(N, H, W)`` int64 -> ``(C,)`` int64; 255 counts nowhere.

    >>> class_counts(torch.tensor([[[0, 2, 2, 255]]]), 3)
    tensor([1, 0, 2])
    """
    counts = torch.zeros(IGNORE + 1, dtype=torch.int64, device=label.device)
    flat = label.flatten().long()
    return counts.scatter_add_(0, flat, torch.ones_like(flat))[:channels]


def class_weights(counts: Tensor, balance: float, most: float) -> Tensor:
    """Weights of the classes' own pixels, ``(C,)`` float32: a power of the ratio of the others to these, at least 1.

    A class that no pixel has, and background, weigh 1.

    Args:
        counts: pixels by channel, ``(C,)`` int64.
        balance: the exponent.
        most: the largest weight.

    >>> class_weights(torch.tensor([9, 1, 0]), 0.5, 10.0)
    tensor([1., 3., 1.])
    """
    own = counts.float()
    weights = ((own.sum() - own) / own.clamp(min=1)).pow(balance).clamp(1, most)
    weights = torch.where(own == 0, 1.0, weights)
    return torch.cat([torch.ones_like(weights[:1]), weights[1:]])


def _on_strip(logits: Tensor, rest: Sequence[Tensor], wanted: bool, *, positive: Tensor) -> Evaluated:
    """`balanced_binary_cross_entropy` with its gradient: ``sigmoid(x)``, at the own channel ``-w sigmoid(-x)``."""
    label = rest[0]
    valid = label != IGNORE
    here = valid & (label != ELSEWHERE)
    place = label.masked_fill(~here, 0)
    own = logits.gather(1, place.unsqueeze(1)).squeeze(1)
    weight = positive[place]
    tail = log1p(torch.exp(-logits.abs()))  # softplus(x) is max(x, 0) and this, softplus(-x) max(-x, 0) and this
    own_tail = tail.gather(1, place.unsqueeze(1)).squeeze(1)
    change = weight * (own_tail - own.clamp(max=0)) - (own_tail + own.clamp(min=0))
    loss = tail.add_(logits.clamp(min=0)).sum(1) + change.masked_fill(~here, 0.0)
    term = Term(loss.masked_fill(~valid, 0.0).sum(), valid.sum())
    if not wanted:
        return Evaluated({ONE: term}, [None])
    gradient = torch.sigmoid(logits).mul_(valid.unsqueeze(1))
    pull = -(weight * torch.sigmoid(-own) + torch.sigmoid(own)).masked_fill(~here, 0.0)
    return Evaluated({ONE: term}, [gradient.scatter_add_(1, place.unsqueeze(1), pull.to(gradient.dtype).unsqueeze(1))])


accelerate(balanced_binary_cross_entropy, analytic=_on_strip, fused=triton.balanced_binary_cross_entropy)
