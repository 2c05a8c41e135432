"""Binary cross-entropy in which the pixels of some classes weigh more."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from barm.batch import Term
from barm.labels import IGNORE


def balanced_binary_cross_entropy(logits: Tensor, label: Tensor, *, positive: Tensor, weight: float = 1.0) -> Term:
    r"""Binary cross-entropy of every channel against the one-hot label, own pixels weighted by the channel.

    .. math:: \ell = \sum_c \bigl(w_c [c = y] \log(1 + e^{-x_c}) + [c \ne y] \log(1 + e^{x_c})\bigr)

    summed over channels, averaged over the pixels whose label is not 255.

    Args:
        logits: before the sigmoid, ``(N, C, H, W)`` float.
        label: channels ``0..C-1`` or `IGNORE`, ``(N, H, W)`` int64.
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
    place = label.masked_fill(~valid, 0)
    own = logits.gather(1, place.unsqueeze(1)).squeeze(1)
    loss = F.softplus(logits).sum(1) - F.softplus(own) + positive[place] * F.softplus(-own)
    return Term(loss.masked_fill(~valid, 0.0).sum(), valid.sum(), weight)
