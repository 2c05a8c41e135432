"""Convolutions of a constant network as oneDNN computes them best: weights laid out once, the ReLU in the same pass.

On a processor torch lays out a convolution's weights anew at every call and makes a pass of its own for the activation.
The functions that avoid both are torch's own, but not documented: `torch.compile` calls them. Where one is missing or
the result is another, the network stays as it is.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from barm.models.folding import EXAMPLE, watched
from barm.models.heads import DecomposedHead, GroupedHead

MKLDNN: Any = torch.backends.mkldnn
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 3e-2}  # of the largest value


class PackedConv(nn.Module):
    """A convolution, with the ReLU behind it where `relu`, for inputs about as large as `size` on a processor."""

    def __init__(self, conv: nn.Conv2d, size: list[int], *, relu: bool) -> None:
        super().__init__()
        self.how: Any = (list(conv.padding), list(conv.stride), list(conv.dilation), conv.groups)
        reorder: Any = torch._C._nn.mkldnn_reorder_conv2d_weight
        self.weight: Tensor = reorder(conv.weight.detach().to_mkldnn(), *self.how, size)
        self.bias = None if conv.bias is None else conv.bias.detach()
        self.activation = "relu" if relu else "none"

    def forward(self, x: Tensor) -> Tensor:
        """``(N, B, h, w)`` -> ``(N, D, h', w')``."""
        convolve = torch.ops.mkldnn._convolution_pointwise
        result: Tensor = convolve(x, self.weight, self.bias, *self.how, self.activation, [], "")
        return result


@torch.no_grad()
def pack(network: nn.Module, batch: Tensor) -> nn.Module:
    """The network with packed convolutions, or itself where they cannot be had here.

    Args:
        network: in evaluation mode, on a processor. Not changed.
        batch: pictures as they will be given, in the network's type and layout; only their shape counts.
    """
    if batch.device.type != "cpu" or batch.dtype not in TOLERANCE or not MKLDNN.is_available():
        return network
    layout = torch.channels_last if batch.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
    noise = torch.randn(EXAMPLE, generator=torch.Generator().manual_seed(0))
    example = noise.to(batch.dtype).contiguous(memory_format=layout)
    before = tree_leaves(network(example))
    try:
        packed = _packed(copy.deepcopy(network), example, batch.shape)
        after = tree_leaves(packed(example))
    except (RuntimeError, AttributeError, TypeError):  # another version of torch, or a processor without oneDNN
        return network
    allowed = TOLERANCE[batch.dtype]
    same = all(
        float((a.float() - b.float()).abs().max()) <= allowed * float(b.abs().max())
        for a, b in zip(after, before, strict=True)
    )
    return packed if same else network


def _packed(network: nn.Module, example: Tensor, shape: torch.Size) -> nn.Module:
    """Pack in place, for pictures of this shape."""
    names = {module: name for name, module in network.named_modules()}
    apart = {c for m in names if isinstance(m, GroupedHead | DecomposedHead) for c in m.head}  # their weights are read
    sizes: dict[nn.Module, list[int]] = {}
    calls: dict[nn.Module, int] = {}

    def count(module: nn.Module, inputs: Any) -> None:
        calls[module] = calls.get(module, 0) + 1
        _, channels, *sides = inputs[0].shape
        larger = [s if s == 1 else s * n // e for s, n, e in zip(sides, shape[2:], example.shape[2:], strict=True)]
        sizes[module] = [shape[0], channels, *(max(1, n) for n in larger)]

    hooks = [m.register_forward_pre_hook(count) for m in names if isinstance(m, nn.Conv2d | nn.ReLU)]
    found = watched(network, example)
    for hook in hooks:
        hook.remove()

    def put(old: nn.Module, new: nn.Module) -> None:
        parent, _, own = names[old].rpartition(".")
        setattr(network.get_submodule(parent), own, new)

    for conv, takers in found.items():
        if type(conv) is not nn.Conv2d or conv in apart or calls[conv] > 1 or isinstance(conv.padding, str):
            continue
        first = takers[0] if takers else None
        relu = isinstance(first, nn.ReLU) and calls[first] == 1 and (len(takers) == 1 or first.inplace)
        put(conv, PackedConv(conv, sizes[conv], relu=relu))
        if relu and first is not None:
            put(first, nn.Identity())
    return network
