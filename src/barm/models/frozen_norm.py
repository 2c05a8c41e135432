"""Choose which frozen batch norms of a training network are computed by the convolutions before them."""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from barm.models.batch_norm import PASSED, take_in
from barm.models.frozen import EXAMPLE, TOLERANCE, watched


def take_in_frozen_norms(network: nn.Module) -> None:
    """Let convolutions compute the frozen batch norms that directly follow them, in place.

    Pairs for which the result would change are left as they are. `barm.models.batch_norm.ordinary` reverts it.

    Args:
        network: a network whose batch norm is in evaluation mode during training and has no trainable parameter.
    """
    modules = dict(network.named_modules())
    for conv, norm in _pairs(network):
        take_in(cast(nn.Conv2d, modules[conv]), cast(nn.BatchNorm2d, modules[norm]))


@torch.no_grad()
def _pairs(network: nn.Module) -> list[tuple[str, str]]:
    """Names of convolutions and of the batch norms after them, recorded on a forward pass of a copy on the CPU."""
    seen = copy.deepcopy(network).cpu().float().eval()
    example = torch.randn(EXAMPLE, generator=torch.Generator().manual_seed(0))
    names = {module: name for name, module in seen.named_modules()}
    found = followers(seen, example)
    before = tree_leaves(seen(example))
    for conv, norm in found:
        take_in(conv, norm)
    same = all(
        float((a - b).abs().max()) <= TOLERANCE * float(b.abs().max())
        for a, b in zip(tree_leaves(seen(example)), before, strict=True)
    )
    return [(names[conv], names[norm]) for conv, norm in found] if same else []


def followers(network: nn.Module, example: Tensor) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Convolutions without bias, each with the one batch norm that alone uses its result, as a forward pass shows."""
    pairs = [
        (conv, cast(nn.BatchNorm2d, takers[0]))
        for conv, takers in watched(network, example).items()
        if type(conv) is nn.Conv2d and conv.bias is None and len(takers) == 1 and type(takers[0]) in PASSED
    ]
    return [(conv, norm) for conv, norm in pairs if norm.running_var is not None]
