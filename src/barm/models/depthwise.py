"""Depthwise convolutions whose backward pass is fast on a processor.

For many of them torch's own backward pass takes a reference loop there, ten times as slow as the forward pass or worse:
the gradient of the weight in bfloat16 wherever the kernel is larger than 3 x 3 or dilated, the gradient of the image
wherever the kernel is dilated, or in bfloat16 strided (``benchmarks/depthwise.py`` measures it). The same gradients
are computed here by what is fast: that of the image by a forward pass, or, like that of the weight, in float32.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.padding import pad_same
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from barm.models.reclassed import Reclassed, become

Pair = tuple[int, int]
TYPES = (torch.float32, torch.bfloat16)
FAST = 3  # side of the largest kernel whose weight's gradient is fast in bfloat16, without dilation


class Depthwise(Reclassed):
    """A depthwise convolution whose backward pass is fast."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        conv: Any = self
        return convolve(input, weight, bias, stride=conv.stride, padding=conv.padding, dilation=conv.dilation)


class DepthwiseSame(Reclassed):
    """The same with the padding of TensorFlow, which depends on the image's size."""

    def forward(self, input: Tensor) -> Tensor:
        """``(N, C, H, W)`` -> ``(N, C, h, w)``."""
        conv: Any = self
        padded = pad_same(input, conv.kernel_size, conv.stride, conv.dilation)
        return convolve(padded, conv.weight, conv.bias, stride=conv.stride, padding=(0, 0), dilation=conv.dilation)


def speed_up_depthwise(network: nn.Module) -> None:
    """Give all depthwise convolutions of a network the fast backward pass, in place.

    Those with a forward pass of their own stay as they are. `barm.models.batch_norm.ordinary` reverts it.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and 1 < module.groups == module.in_channels == module.out_channels:
            if type(module).forward is Conv2dSame.forward:
                become(module, DepthwiseSame)
            elif type(module)._conv_forward is nn.Conv2d._conv_forward and _pads_with_zeros(module):
                become(module, Depthwise)


def _pads_with_zeros(conv: nn.Conv2d) -> bool:
    return conv.padding_mode == "zeros" and not isinstance(conv.padding, str)


def convolve(
    image: Tensor, weight: Tensor, bias: Tensor | None, *, stride: Pair, padding: Pair, dilation: Pair
) -> Tensor:
    """Depthwise convolution, ``(N, C, H, W)`` -> ``(N, C, h, w)``, with `torch.nn.functional.conv2d`'s result.

    The backward pass is the fast one where it is known to be: on a processor, channels last, in float32 or bfloat16.

    Args:
        image: feature maps.
        weight: ``(C, 1, kh, kw)``.
        bias: ``(C,)`` or None.
        stride: of both axes, as the next two.
        padding: number of zeros at each side.
        dilation: distance of the kernel's taps.
    """
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else image.dtype
    last = image.is_contiguous(memory_format=torch.channels_last)
    if image.device.type != "cpu" or dtype not in TYPES or not last or not torch.is_grad_enabled():
        return F.conv2d(image, weight, bias, stride, padding, dilation, image.shape[1])
    with torch.autocast("cpu", enabled=False):
        result: Tensor = _Depthwise.apply(image.to(dtype), weight, bias, stride, padding, dilation)
    return result


class _Depthwise(torch.autograd.Function):
    """`convolve` in the image's type; the gradients of weight and bias are in the types of these."""

    @staticmethod
    def forward(
        ctx: Any, image: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair, dilation: Pair
    ) -> Tensor:
        kernel = weight.to(image.dtype)
        ctx.save_for_backward(image, kernel)
        ctx.stride, ctx.padding, ctx.dilation = stride, padding, dilation
        shift = None if bias is None else bias.to(image.dtype)
        return F.conv2d(image, kernel, shift, stride, padding, dilation, image.shape[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, ...]:
        image, kernel = ctx.saved_tensors
        of_image, of_weight, of_bias = ctx.needs_input_grad[:3]
        outer = outer.contiguous(memory_format=torch.channels_last)
        gradients: list[Tensor | None] = [None, None, outer.float().sum((0, 2, 3)) if of_bias else None]
        sides = zip(kernel.shape[2:], ctx.padding, ctx.dilation, strict=True)
        around = [dilation * (side - 1) - padding for side, padding, dilation in sides]
        as_forward = tuple(ctx.stride) == (1, 1) and min(around) >= 0
        if of_image and as_forward:
            gradients[0] = F.conv2d(outer, kernel.flip(2, 3), None, 1, around, ctx.dilation, image.shape[1])
        elif of_image:
            gradients[0] = _gradients(ctx, outer.float(), image.float(), kernel.float(), 0).to(image.dtype)
        if of_weight and max(kernel.shape[2:]) <= FAST and max(ctx.dilation) == 1:
            gradients[1] = _gradients(ctx, outer, image, kernel, 1)
        elif of_weight:
            gradients[1] = _gradients(ctx, outer.float(), image.float(), kernel.float(), 1)
        return (*gradients, None, None, None)


def _gradients(ctx: Any, outer: Tensor, image: Tensor, kernel: Tensor, which: int) -> Tensor:
    """torch's own gradient of the image (0) or the weight (1)."""
    wanted = [which == 0, which == 1, False]
    found = torch.ops.aten.convolution_backward(
        outer, image, kernel, None, ctx.stride, ctx.padding, ctx.dilation, False, [0, 0], image.shape[1], wanted
    )
    gradient: Tensor = found[which]
    return gradient
