"""Losses of MiB, LwF and ILT: softmax over all channels, means over *all* pixels, ignored ones included.

K is the number of channels of the previous model (background included), C that of this step's.
Source: MiB, Cermelli et al., CVPR 2020, arXiv 2002.00718; spec/mib.md sections 2 to 4.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from barm.batch import Term
from barm.labels import IGNORE
from barm.losses.common import count


def unbiased_cross_entropy(logits: Tensor, label: Tensor, *, num_old: int = 1, weight: float = 1.0) -> Term:
    r"""Cross-entropy in which "background" means background or any old class.

    .. math:: \ell = -\log \sum_{c < K} p_c \;\text{ where } y < K, \qquad \ell = -\log p_y \;\text{ where } y \ge K

    Args:
        logits: ``(N, C, H, W)`` float.
        label: channels, ``(N, H, W)`` int64; old ones count as background, `IGNORE` contributes 0 to the sum.
        num_old: K; 1 gives ordinary cross-entropy.
        weight: factor in the objective.

    Returns:
        The sum and the number of all pixels (spec/mib.md section 2, Q3: the divisor counts ignored pixels too).

    >>> logits = torch.zeros(1, 4, 1, 2)
    >>> term = unbiased_cross_entropy(logits, torch.tensor([[[0, 255]]]), num_old=2)
    >>> round(float(term.total), 4), int(term.number)          # -log(2/4), over both pixels
    (0.6931, 2)
    """
    background = torch.logsumexp(logits[:, :num_old], dim=1, keepdim=True)
    grouped = torch.cat([background, logits[:, num_old:]], dim=1)
    target = (label - (num_old - 1)).clamp(min=0).masked_fill(label == IGNORE, IGNORE)
    # the softmax over [background group, new classes] is that over all channels with the old ones added together
    loss = F.cross_entropy(grouped, target, ignore_index=IGNORE, reduction="sum")
    return Term(loss, _pixels(logits), weight)


def unbiased_distillation(
    logits: Tensor, old: Tensor, *, alpha: float = 1.0, mask: Tensor | None = None, weight: float = 1.0
) -> Term:
    r"""Distillation in which the new classes stand for the previous model's background.

    .. math:: \ell = -\tfrac1K \sum_{c<K} q_c \log \tilde p_c, \quad \tilde p_0 = p_0 + \sum_{c \ge K} p_c

    Args:
        logits: of the student, ``(N, C, H, W)`` float.
        old: of the previous model, ``(N, K, H, W)`` float, C > K.
        alpha: factor on the previous model's logits.
        mask: pixels that count, ``(N, H, W)``; the divisor stays the number of all pixels.
        weight: factor in the objective.

    Source: spec/mib.md section 3.
    """
    num_old = old.shape[1]
    background = torch.logsumexp(torch.cat([logits[:, :1], logits[:, num_old:]], dim=1), dim=1, keepdim=True)
    return _distil(torch.cat([background, logits[:, 1:num_old]], dim=1), old, alpha, mask, weight)


def distillation(
    logits: Tensor, old: Tensor, *, alpha: float = 1.0, mask: Tensor | None = None, weight: float = 1.0
) -> Term:
    """Distillation over the old channels alone (LwF). The new channels are cut off before the softmax.

    Arguments as in `unbiased_distillation`. Source: spec/mib.md section 4.
    """
    return _distil(logits[:, : old.shape[1]], old, alpha, mask, weight)


def feature_distillation(feature: Tensor, old: Tensor, *, weight: float = 1.0) -> Term:
    """Mean squared difference of two feature maps of one shape (ILT). Source: spec/mib.md section 4."""
    return Term(((feature - old) ** 2).sum(), count(old.numel(), old), weight)


def _distil(logits: Tensor, old: Tensor, alpha: float, mask: Tensor | None, weight: float) -> Term:
    """``-mean_c q_c log p_c`` per pixel, both over K channels."""
    loss = -(torch.softmax(alpha * old, dim=1) * torch.log_softmax(logits, dim=1)).mean(dim=1)
    if mask is not None:
        loss = loss * mask
    return Term(loss.sum(), _pixels(logits), weight)


def _pixels(logits: Tensor) -> Tensor:
    """Number of all pixels of a batch."""
    return count(logits.shape[0] * logits.shape[2] * logits.shape[3], logits)
