"""Learning rates by part of the network, and the parameter groups that have them."""

from __future__ import annotations

from typing import Annotated, NotRequired, TypedDict

from pydantic import BaseModel, ConfigDict, Field
from torch import nn

Rate = Annotated[float, Field(gt=0, le=100)]  # far above what trains, far below what overflows


class Rates(BaseModel):
    """Learning rates by part of the network.

    Attributes:
        new: the newest head and branch.
        aspp: ASPP, between the backbone and the heads.
        old: heads and branches of earlier steps.
        backbone: the backbone.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    new: Rate
    aspp: Rate
    old: Rate
    backbone: Rate


class ParamGroup(TypedDict):
    """Parameters that train at one rate. A parameter in no group is frozen."""

    name: str
    params: list[nn.Parameter]
    lr: float
    weight_decay: NotRequired[float]


def group(name: str, params: list[nn.Parameter], lr: float, *, decay: bool = True) -> ParamGroup:
    """One parameter group, with or without the recipe's weight decay."""
    plain: ParamGroup = {"name": name, "params": params, "lr": lr}
    return plain if decay else {**plain, "weight_decay": 0.0}
