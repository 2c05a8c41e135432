"""DKD's losses: binary cross-entropy of the new classes and of the auxiliary classifier that they start from.

Means run over all pixels, ignored ones included, sums over classes (spec/dkd.md sections 1 and 4, Q1, Q2).
Source: DKD, Baek et al., NeurIPS 2022, arXiv 2210.05941. The distillations are `common.sigmoid_distillation`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from barm.batch import Term
from barm.losses.common import count


def multiple_binary_cross_entropy(logits: Tensor, label: Tensor, *, first: int, positive_weight: float) -> Term:
    """Binary cross-entropy per new class. Pixels of anything else are negatives, ignored pixels too.

    Args:
        logits: of the new classes, ``(N, K, H, W)``.
        label: channels, ``(N, H, W)`` int64.
        first: channel of the first new class.
        positive_weight: factor on the positive pixels.
    """
    classes = torch.arange(first, first + logits.shape[1], device=label.device)
    target = (label.unsqueeze(1) == classes.view(1, -1, 1, 1)).to(logits.dtype)
    weight = logits.new_full((), positive_weight)
    loss = F.binary_cross_entropy_with_logits(logits, target, pos_weight=weight, reduction="sum")
    return Term(loss, count(label.numel(), label))


def auxiliary_loss(logits: Tensor) -> Term:
    """Loss of the auxiliary classifier, for which every pixel is a negative, ``(N, H, W)``."""
    return Term(F.softplus(logits).sum(), count(logits.numel(), logits))
