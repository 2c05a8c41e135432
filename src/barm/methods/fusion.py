"""EWF: endpoints weight fusion (Xiao et al., CVPR 2023), an operation after the training of a step of any method.

The network that the step started from and the trained one are averaged tensor by tensor. The average is evaluated,
stored, and taken over by the next step as teacher and start. Source: spec/ewf.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor


class FusionConfig(BaseModel):
    """Fusion of the trained network with that of the previous step.

    Attributes:
        share: of the trained network, in 0..1; by default the root of the new classes' share among all classes.
        freeze_old_heads: classifiers of earlier steps, the background's row included, do not train.
        largest: share of the entries that is fused, those that the training changed most; the others stay as trained.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    share: float | None = Field(None, gt=0, le=1, examples=[0.5])
    freeze_old_heads: bool = True
    largest: float = Field(1.0, gt=0, le=1)


def fusion_share(num_new: int, num_seen: int) -> float:
    """The share of the trained network, the root of N / C (section 2).

    Args:
        num_new: classes of the step.
        num_seen: channels of the step's network, background included.

    >>> round(fusion_share(1, 17), 4)
    0.2425
    """
    return math.sqrt(num_new / num_seen)


@torch.no_grad()
def fuse(
    old: Mapping[str, Tensor], new: Mapping[str, Tensor], share: float, *, largest: float = 1.0
) -> dict[str, Tensor]:
    """Average two states of a network, running statistics included.

    Args:
        old: tensors that the previous step stored.
        new: tensors of the trained network; those that `old` does not have, or has as whole numbers, stay.
        share: of the trained network.
        largest: share of the entries that is fused, those that changed most.

    Returns:
        Tensors of the type and on the device of `new`, which is not changed.
    """
    shared = [name for name in old if name in new and new[name].is_floating_point()]
    before = {name: old[name].to(new[name].device, new[name].dtype) for name in shared}
    fused = {name: (1 - share) * before[name] + share * new[name] for name in shared}
    if largest < 1 and shared:
        least = change_threshold(before, new, largest)
        fused = {n: torch.where((before[n] - new[n]).abs() >= least, fused[n], new[n]) for n in shared}
    return {name: fused.get(name, tensor.clone()) for name, tensor in new.items()}


def change_threshold(old: Mapping[str, Tensor], new: Mapping[str, Tensor], largest: float) -> Tensor:
    """The smallest change among the share `largest` of the entries that changed most, a scalar (section 2)."""
    changes = torch.cat([(tensor - new[name]).abs().flatten() for name, tensor in old.items()])
    return torch.topk(changes, max(1, int(largest * len(changes)))).values[-1]
