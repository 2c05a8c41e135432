"""How the backbone trains: at rates by depth, not at all, or by adapters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from torch import nn

from barm.engine.config import LoraConfig, StepRecipe
from barm.methods.base import Method
from barm.methods.groups import ParamGroup
from barm.models.adapters import add_adapters
from barm.models.depth import depths


def backbone_of(model: nn.Module) -> nn.Module:
    """The backbone of a network."""
    return cast(nn.Module, model.backbone)


def frozen_part(model: nn.Module, recipe: StepRecipe) -> nn.Module | None:
    """The part whose batch norm is frozen by the recipe, whatever the method does: the backbone, or None."""
    return None if recipe.backbone == "trained" else backbone_of(model)


def trained_groups(method: Method[Any, Any], model: nn.Module, recipe: StepRecipe, seed: int = 0) -> list[ParamGroup]:
    """Groups of the parameters that train, none of them empty. What the method freezes stays frozen.

    Args:
        method: at its step.
        model: its network; adapters are added to its backbone if the recipe says so.
        recipe: the step's optimisation.
        seed: of the adapters.

    Raises:
        UserError: if adapters cannot be added.
    """
    groups = method.param_groups(model, recipe.lr)
    still = {id(parameter) for parameter in method.frozen(model)}
    for group in groups if still else ():
        group["params"] = [p for p in group["params"] if id(p) not in still]
    if recipe.backbone != "frozen" and recipe.depth_decay < 1:
        depth = depths(backbone_of(model), method.network.backbone)
        groups = [part for group in groups for part in by_depth(group, depth, recipe.depth_decay)]
    if recipe.backbone != "trained":
        size = recipe.lora if recipe.backbone == "lora" else None
        groups = _without_backbone(groups, backbone_of(model), size, seed)
    return [group for group in groups if group["params"]]


def by_depth(group: ParamGroup, depth: Mapping[int, int], decay: float) -> list[ParamGroup]:
    """Split a group into one per depth, the rate of each multiplied by ``decay ** depth``.

    Args:
        group: of parameters.
        depth: of a parameter, by its identity; parameters without one keep the group's rate.
        decay: factor per block.
    """
    parts: dict[int, list[nn.Parameter]] = {}
    for parameter in group["params"]:
        parts.setdefault(depth.get(id(parameter), -1), []).append(parameter)
    split: list[ParamGroup] = []
    for number, params in sorted(parts.items()):
        part = group.copy()
        part["params"] = params
        if number >= 0:
            part["name"], part["lr"] = f"{group['name']}.{number}", group["lr"] * decay**number
        split.append(part)
    return split


def train_mode(method: Method[Any, Any], model: nn.Module, recipe: StepRecipe) -> None:
    """Put the network into training mode. Where the backbone's weights do not train, its batch norm is evaluated.

    A frozen backbone is in evaluation mode as a whole.
    """
    method.train_mode(model)
    part = frozen_part(model, recipe)
    if part is not None:
        for module in part.modules():
            if recipe.backbone == "frozen" or isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.training = False


def _without_backbone(
    groups: list[ParamGroup], backbone: nn.Module, size: LoraConfig | None, seed: int
) -> list[ParamGroup]:
    """Groups in which adapters of this size stand for the backbone's weights; without a size nothing does."""
    own = {id(p) for p in backbone.parameters()}
    factors: dict[int, list[nn.Parameter]] = {}
    if size is not None:
        wanted = {id(p) for group in groups for p in group["params"]} & own
        factors = add_adapters(
            backbone, rank=size.rank, alpha=size.alpha, targets=size.targets, wanted=wanted, seed=seed
        )
    changed: list[ParamGroup] = []
    for group in groups:
        part = group.copy()
        part["params"] = [q for p in group["params"] for q in (factors.get(id(p), []) if id(p) in own else [p])]
        changed.append(part)
    return changed
