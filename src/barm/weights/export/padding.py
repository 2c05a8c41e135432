"""Padding that depends on the image's size, written so that torch.export traces it in seconds.

TensorFlow's "same" padding (timm's networks ``tf_*``) depends on the size of what is padded. In timm's form every
layer's size becomes a longer formula with maxima and roundings, which torch.export simplifies again and again: minutes
for 40 layers. In the form here the old size cancels out, and the sizes of a strided convolution behind it stay as
short as those of an ordinary one.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.pool2d_same import AvgPool2dSame, MaxPool2dSame
from torch import Tensor, nn


class SamePadding(nn.Module):
    """Pad so that a window with a stride gives ``ceil(size / stride)`` values, with less before than after.

    Args:
        kernel: height and width of the window.
        stride: of both.
        dilation: of both.
        value: of the padding.
    """

    def __init__(
        self, kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int] = (1, 1), value: float = 0.0
    ) -> None:
        super().__init__()
        self.reach = tuple((k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True))
        self.stride, self.value = stride, value

    def forward(self, x: Tensor) -> Tensor:
        """Pad ``(N, C, H, W)``."""
        high, wide = (_missing(x.shape[2 + i], self.reach[i], self.stride[i]) for i in (0, 1))
        sides = [wide // 2, wide - wide // 2, high // 2, high - high // 2]
        return nn.functional.pad(x, sides, value=self.value)


def _missing(size: int, reach: int, stride: int) -> int:
    """Number of values to add to `size`, an int or its symbol; timm's `get_same_padding` without a rounded fraction."""
    if stride == 1:
        return reach - 1
    missing = (size - 1) // stride * stride + reach - size
    return missing if reach >= stride else max(missing, 0)


def pad_simply(network: nn.Module) -> None:
    """Replace every layer that pads by itself by a `SamePadding` and the plain layer, in place."""
    for name, module in list(network.named_modules()):
        plain = _plain(module)
        if plain is not None:
            parent, _, own = name.rpartition(".")
            setattr(network.get_submodule(parent), own, plain)


def _plain(module: nn.Module) -> nn.Module | None:
    """The padding and the plain layer; None for a layer that does not pad by its input's size."""
    layer: Any = module
    if isinstance(module, Conv2dSame):
        form = (module.in_channels, module.out_channels, layer.kernel_size, layer.stride, 0, layer.dilation)
        with torch.device("meta"):
            conv = nn.Conv2d(*form, groups=module.groups, bias=module.bias is not None)
        conv.weight, conv.bias = module.weight, module.bias
        return nn.Sequential(SamePadding(layer.kernel_size, layer.stride, layer.dilation), conv)
    if isinstance(module, AvgPool2dSame):
        average = nn.AvgPool2d(layer.kernel_size, layer.stride, 0, layer.ceil_mode, layer.count_include_pad)
        return nn.Sequential(SamePadding(layer.kernel_size, layer.stride), average)
    if isinstance(module, MaxPool2dSame):
        padding = SamePadding(layer.kernel_size, layer.stride, layer.dilation, float("-inf"))
        largest = nn.MaxPool2d(layer.kernel_size, layer.stride, 0, layer.dilation, ceil_mode=layer.ceil_mode)
        return nn.Sequential(padding, largest)
    if getattr(module, "same_pad", False):  # timm's convolutions with standardised weights
        layer.same_pad = False
        return nn.Sequential(SamePadding(layer.kernel_size, layer.stride, layer.dilation), module)
    return None
