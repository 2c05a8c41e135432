"""Warm start of the new classifier from the old ones, before a step's training (after NeST).

What the previous network takes a new class for says which old classifiers lie near it. The new classifier starts as
their mean, and trains alone for the first updates. That a new classifier is tuned from the old ones before the network
learns is the idea of NeST (Xie et al., "Early Preparation Pays Off", ECCV 2024). There a map from the old classifiers
is learned by gradients, here it is read off in one pass.
"""

from __future__ import annotations

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional as F

from barm.labels import IGNORE


class WarmStartConfig(BaseModel):
    """Warm start of the new classifier.

    Attributes:
        alone: share of the updates, the first ones, in which the new classifier trains and nothing else.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    alone: float = Field(0.1, ge=0, le=0.9)


def resemblance(probability: Tensor, label: Tensor, *, first: int, number: int) -> Tensor:
    """Sum the previous network's probabilities over the pixels of every new class.

    Args:
        probability: of the K old channels, ``(N, K, h, w)``.
        label: channels of the step, ``(N, H, W)`` int64; resized nearest-neighbour to the probabilities' size.
        first: channel of the first new class.
        number: of new classes.

    Returns:
        ``(number, K)`` float64, which batches and processes can add up.
    """
    size = (probability.shape[2], probability.shape[3])
    cells = F.interpolate(label.unsqueeze(1).float(), size=size, mode="nearest-exact").squeeze(1).long()
    own = F.one_hot((cells - first).where((cells >= first) & (cells != IGNORE), number), number + 1)[..., :number]
    return torch.einsum("nhwc,nkhw->ck", own.double(), probability.double())


def shares(sums: Tensor, *, background: bool) -> Tensor:
    """Shares of the old channels in every new class, ``(number, K)``; each row adds up to 1.

    Args:
        sums: of `resemblance`; a class without a pixel gets equal shares.
        background: background counts too. It is what most networks take a new class for, and a classifier that starts
            from it alone is MiB's.

    >>> shares(torch.tensor([[6.0, 1.0, 3.0], [0.0, 0.0, 0.0]]), background=False)
    tensor([[0.0000, 0.2500, 0.7500],
            [0.0000, 0.5000, 0.5000]])
    """
    counted = torch.ones_like(sums)
    counted[:, 0] = float(background)
    found = sums * counted
    found = torch.where(found.sum(1, keepdim=True) > 0, found, counted)
    return found / found.sum(1, keepdim=True)
