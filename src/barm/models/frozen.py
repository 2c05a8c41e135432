"""Constant networks: batch norm folded into convolutions, weights converted to the type of the computation."""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.hooks import RemovableHandle

from barm.models.batch_norm import ordinary
from barm.models.heads import GroupedHead, fold_into
from barm.models.pairs import merge_pairs
from barm.models.regression import Regression

EXAMPLE = (1, 3, 64, 64)
TOLERANCE = 1e-3  # of the largest value; folding changes the rounding alone, about 1e-5


@torch.no_grad()
def fold_batch_norm(network: nn.Module, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Fold every batch norm that directly follows a convolution, and merge parallel branches.

    A forward pass of noise shows which module follows which, for any architecture. What it cannot show, such as a sum
    outside of any module, changes the result: the network is then returned without folding.

    Args:
        network: in evaluation mode, float32, on the CPU; its forward takes ``(N, 3, H, W)``. Not changed.
        dtype: type of the computation; what would overflow in it is not folded.

    Returns:
        A copy, in float32.
    """
    example = torch.randn(EXAMPLE, generator=torch.Generator().manual_seed(0))
    folded = copy.deepcopy(network)
    before = tree_leaves(network(example))
    merge_pairs(folded, dtype)
    _fold(folded, example, dtype)
    for module in folded.modules():
        if isinstance(module, GroupedHead):
            module.merge(dtype)
    after = tree_leaves(folded(example))
    same = all(
        float((a - b).abs().max()) <= TOLERANCE * float(b.abs().max()) for a, b in zip(after, before, strict=True)
    )
    return folded if same else copy.deepcopy(network)


def lower_precision(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Convert to another type, in place. Batch norm that is left, and a regression's weights, stay float32.

    A variance above 65504 would be infinite in fp16, and bf16 keeps three digits of it. torch computes batch norm of
    tensors in a lower precision with float32 statistics.
    """
    kept = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm | Regression)]
    states = [{name: tensor.clone() for name, tensor in module.state_dict().items()} for module in kept]
    network.to(dtype)
    for module, state in zip(kept, states, strict=True):
        module.float().load_state_dict(state)
    return network


def _fold(network: nn.Module, example: Tensor, dtype: torch.dtype) -> None:
    names = {module: name for name, module in network.named_modules()}
    for conv, norm in _followers(network, example):
        if not fold_into(conv, norm, dtype):
            continue
        parent, _, own = names[norm].rpartition(".")
        activation = nn.Sequential(norm.drop, norm.act) if isinstance(norm, BatchNormAct2d) else nn.Identity()
        setattr(network.get_submodule(parent), own, activation)


def _followers(network: nn.Module, example: Tensor) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Pairs of a convolution and the one batch norm that alone uses its result."""
    return [
        (conv, takers[0])
        for conv, takers in watched(network, example).items()
        if len(takers) == 1 and isinstance(takers[0], nn.BatchNorm2d) and takers[0].running_var is not None
    ]


def watched(network: nn.Module, example: Tensor) -> dict[nn.Conv2d, list[nn.Module]]:
    """Record on one forward pass which modules use the result of each convolution, in order.

    `nn.Identity` hands its input on. A result that was changed outside of any module no longer counts.
    """
    made: dict[int, tuple[nn.Conv2d, Tensor, int]] = {}  # by the identity of the result, which is kept alive
    takers: dict[nn.Conv2d, list[nn.Module]] = {}

    def note(conv: nn.Module, _inputs: Any, result: Tensor) -> None:
        takers.setdefault(cast(nn.Conv2d, conv), [])
        made[id(result)] = (cast(nn.Conv2d, conv), result, result._version)

    def take(module: nn.Module, inputs: Any) -> None:
        for leaf in tree_leaves(inputs):
            conv, result, version = made.get(id(leaf), (None, None, 0))
            if conv is not None and result is not None and result._version == version:
                takers[conv].append(module)

    hooks: list[RemovableHandle] = []
    for module in network.modules():
        if (not list(module.children()) or isinstance(module, nn.BatchNorm2d)) and not isinstance(module, nn.Identity):
            hooks.append(module.register_forward_pre_hook(take))
        if isinstance(module, nn.Conv2d):
            hooks.append(module.register_forward_hook(note))
    try:
        network(example)
    finally:
        for hook in hooks:
            hook.remove()
    return takers


class Constant:
    """A constant network as a function: batch norm folded, weights in the type of the computation, no gradient.

    It runs the operations of the network under autocast, except those that folding and a fixed type save. So it is
    never slower than that network, whatever the kinds of its convolutions (docs/speed.md).

    Args:
        module: the network; a copy is taken.
        dtype: type of the computation.
        device: on which it runs.
        layout: of its tensors in memory.
    """

    def __init__(
        self,
        module: nn.Module,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        layout: torch.memory_format = torch.contiguous_format,
    ) -> None:
        self.dtype, self.layout = dtype, layout
        self.normalise = copy.deepcopy(getattr(module, "normalise", nn.Identity())).to(device)
        network = copy.deepcopy(ordinary(module)).cpu().eval().requires_grad_(False).float()
        network = lower_precision(fold_batch_norm(network, dtype), dtype)
        self.network = network.to(memory_format=layout).to(device)

    def __call__(self, image: Tensor) -> Any:
        """Apply the network to ``(N, 3, H, W)``, uint8 or normalised; output in fp32."""
        image = self.normalise(image.contiguous(memory_format=self.layout)).to(self.dtype)
        with torch.inference_mode():
            out = self.network(image)
        # copied outside of inference mode, since a loss may keep it for its gradient
        return tree_map(lambda x: x.to(torch.float32, copy=True) if isinstance(x, Tensor) else x, out)
