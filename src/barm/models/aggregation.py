"""Logits of the grouped classifier from the outputs of its heads. Source: spec/barm.md section 2.

The first output channel of a later head is a residual: it corrects the background's logit of step 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def aggregate(heads: Sequence[Tensor], *, own: bool = False) -> Tensor:
    """Aggregate the heads: background ``z_0[0] + sum_t min(a_t, 0)``, then the classes, ``(N, C, h, w)``.

    Args:
        heads: as in `GroupedOutput`.
        own: as for `residuals`.
    """
    background = heads[0][:, :1] + sum(residuals(heads, own=own))
    return torch.cat([background, *(h[:, 1:] for h in heads)], dim=1)


def residuals(heads: Sequence[Tensor], *, own: bool = False) -> list[Tensor]:
    """The residuals of the later steps as they change the background, ``min(a_t, 0)``, ``(N, 1, h, w)`` each.

    Args:
        heads: as in `GroupedOutput`.
        own: a pixel has the residual of one step alone, that of its most probable class, and none where that is a class
            of step 0. Otherwise the residuals of all steps add up, those of other classes included.

    >>> first, second = torch.tensor([2.0, 1.0]).view(1, 2, 1, 1), torch.tensor([-3.0, 0.5]).view(1, 2, 1, 1)
    >>> [float(r) for own in (False, True) for r in residuals([first, second], own=own)]
    [-3.0, 0.0]
    """
    clamped = [h[:, :1].clamp(max=0) for h in heads[1:]]
    if not own:
        return clamped
    nearest = torch.stack([h[:, 1:].amax(dim=1) for h in heads], dim=1).argmax(dim=1, keepdim=True)
    return [residual.masked_fill(nearest != t, 0.0) for t, residual in enumerate(clamped, start=1)]


def aggregate_for_training(heads: Sequence[Tensor]) -> Tensor:
    """Aggregate as `aggregate`, but the newest residual is not clamped and alone has a gradient.

    ``sg(z_0[0]) + sum_{1 <= t < T} sg(min(a_t, 0)) + a_T`` with sg = stop-gradient; ``z_0[0]`` at step 0.
    """
    if len(heads) == 1:
        return heads[0]
    settled = heads[0][:, :1] + sum(h[:, :1].clamp(max=0) for h in heads[1:-1])
    return torch.cat([settled.detach() + heads[-1][:, :1], *(h[:, 1:] for h in heads)], dim=1)
