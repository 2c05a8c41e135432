"""Depth of a backbone's parameters: how many blocks stand between each and the head."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, cast

import timm
import torch
from timm.models import group_parameters
from torch import nn

LISTS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def depths(backbone: nn.Module, name: str) -> dict[int, int]:
    """Number of blocks after a parameter's own, by the identity of the parameter; 0 in the last block.

    timm says which parameters of its networks make up a block. In any other network the parts at the top are the
    blocks, and lists of parts are opened.

    Args:
        backbone: whose parameters are numbered.
        name: of the backbone, as in the configuration.
    """
    blocks = _of_timm(backbone, name) or _of_parts(backbone)
    order = {block: place for place, block in enumerate(sorted(set(blocks.values())))}
    return {key: len(order) - 1 - order[block] for key, block in blocks.items()}


def _of_timm(backbone: nn.Module, name: str) -> dict[int, int]:
    """Numbers of the blocks by timm's own rule; empty where timm has none, or the names are not those of the network.

    A network that returns features has ``_`` for ``.`` in some names, or stands as `model` in a wrapper. Parallel
    branches are where their convolution was.
    """
    if not timm.is_model(name.split(".")[0]):
        return {}
    with torch.device("meta"):
        whole = timm.create_model(name, pretrained=False)
    if not hasattr(whole, "group_matcher"):
        return {}
    matcher = cast(Any, whole).group_matcher(coarse=False)
    rule: Mapping[str, int] = group_parameters(whole, matcher, reverse=True)
    blocks = {own.replace(".", "_"): block for own, block in rule.items()}
    found: dict[int, int] = {}
    for own, parameter in backbone.named_parameters():
        plain = re.sub(r"_(old|new)_[01]_(weight|bias)$", "_weight", own.replace(".", "_"))
        key = plain if plain in blocks else plain.removeprefix("model_")
        if key not in blocks:
            return {}
        found[id(parameter)] = blocks[key]
    return found


def _of_parts(backbone: nn.Module) -> dict[int, int]:
    """Numbers of the blocks by the order of the parts. What belongs to no part comes with the first."""
    found = dict.fromkeys(map(id, backbone.parameters()), 0)
    for block, part in enumerate(parts_of(backbone)):
        found |= dict.fromkeys(map(id, part.parameters()), block)
    return found


def parts_of(backbone: nn.Module) -> Iterator[nn.Module]:
    """The parts at the top that have parameters, in order. Wrappers and lists of parts are opened."""
    whole, children = backbone, _children(backbone)
    while len(children) == 1 and _children(children[0]):  # a wrapper
        whole, children = children[0], _children(children[0])
    return opened(whole)


def opened(module: nn.Module) -> Iterator[nn.Module]:
    """The children of a module that have parameters, in order. Lists among them are opened."""
    for child in _children(module):
        if isinstance(child, LISTS):
            yield from opened(child)
        else:
            yield child


def _children(module: nn.Module) -> list[nn.Module]:
    return [child for child in module.children() if next(child.parameters(), None) is not None]
