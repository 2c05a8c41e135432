"""Depthwise convolutions whose backward pass is fast on a processor.

For many of them torch's own backward pass is a loop there, tens of times as slow as the forward pass: the gradient of
the image wherever the kernel is dilated, in bfloat16 also where it is strided, and in bfloat16 the gradient of the
weight wherever the kernel is dilated or has a side above 3 (``benchmarks/depthwise.py``). The same gradients are
computed here by what is fast: that of the image by a forward or a transposed convolution, that of the weight in
float32. All other convolutions are left to torch.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.padding import pad_same
from torch import Tensor, nn
from torch.nn import functional as F

from barm.models.batch_norm import NormedConv
from barm.models.reclassed import Reclassed, become

Pair = tuple[int, int]
FAST = 3  # side of the largest kernel whose gradient is fast in bfloat16, without dilation


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
    """Give the depthwise convolutions of a network that torch computes slowly the fast backward pass, in place.

    `barm.models.batch_norm.ordinary` reverts it. Until then these layers cannot be pickled, traced or transformed by
    `torch.func`. Layers with a forward pass of their own stay as they are.
    """
    for module in network.modules():
        if not isinstance(module, nn.Conv2d) or not 1 < module.groups == module.in_channels == module.out_channels:
            continue
        forward = type(module).forward
        if isinstance(module, Reclassed) or not _loops(module, torch.bfloat16):
            continue
        if forward is Conv2dSame.forward:
            become(module, DepthwiseSame)
        elif forward in (nn.Conv2d.forward, NormedConv.forward) and _pads_with_zeros(module):
            become(module, Depthwise)


def _pads_with_zeros(conv: nn.Conv2d) -> bool:
    return conv.padding_mode == "zeros" and not isinstance(conv.padding, str)


def _loops(conv: nn.Conv2d, dtype: torch.dtype) -> bool:
    return is_slow(conv.weight, stride=max(conv.stride), dilation=max(conv.dilation), dtype=dtype)


def is_slow(weight: Tensor, *, stride: int, dilation: int, dtype: torch.dtype) -> bool:
    """Whether torch's backward pass is a loop on a processor, and there is a faster one.

    Args:
        weight: ``(C, 1, kh, kw)``.
        stride: the larger of both axes', as `dilation`.
        dilation: distance of the kernel's taps.
        dtype: in which the convolution is computed.

    >>> is_slow(torch.zeros(8, 1, 5, 5), stride=1, dilation=1, dtype=torch.bfloat16)
    True
    """
    if dtype == torch.float32:
        return dilation > 1 and stride == 1
    return dtype == torch.bfloat16 and (dilation > 1 or stride > 1 or max(weight.shape[2:]) > FAST)


def convolve(
    image: Tensor, weight: Tensor, bias: Tensor | None, *, stride: Pair, padding: Pair, dilation: Pair
) -> Tensor:
    """Depthwise convolution with the result of `torch.nn.functional.conv2d`, bit for bit.

    Only on a processor, of images that lie channels last, the backward pass is another one where it `is_slow`.

    Args:
        image: feature maps, ``(N, C, H, W)`` float.
        weight: ``(C, 1, kh, kw)`` float.
        bias: ``(C,)`` float or None.
        stride: of both axes, as the next two.
        padding: number of zeros at each side.
        dilation: distance of the kernel's taps.

    Returns:
        ``(N, C, h, w)`` in the image's type, under autocast in autocast's.

    Raises:
        RuntimeError: where `conv2d` raises it.
    """
    dtype, cast = image.dtype, torch.is_autocast_enabled("cpu") and image.dtype != torch.float64
    if cast:
        dtype = torch.get_autocast_dtype("cpu")
    if (
        image.device.type != "cpu"
        or not torch.is_grad_enabled()
        or image.dim() != 4
        or image.shape[1] != weight.shape[0]
        or not (cast or weight.dtype == dtype)
        or not image.is_contiguous(memory_format=torch.channels_last)
        or not is_slow(weight, stride=max(stride), dilation=max(dilation), dtype=dtype)
    ):
        return F.conv2d(image, weight, bias, stride, padding, dilation, weight.shape[0])
    with torch.autocast("cpu", enabled=False):
        result: Tensor = _Depthwise.apply(image.to(dtype), weight, bias, stride, padding, dilation)
    return result


class _Depthwise(torch.autograd.Function):
    """`convolve` in the image's type; the gradients of weight and bias are in the types of these."""

    @staticmethod
    def forward(
        ctx: Any, image: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair, dilation: Pair
    ) -> Tensor:
        ctx.save_for_backward(image, weight)
        ctx.stride, ctx.padding, ctx.dilation = stride, padding, dilation
        shift = None if bias is None else bias.to(image.dtype)
        return F.conv2d(image, weight.to(image.dtype), shift, stride, padding, dilation, weight.shape[0])

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, ...]:
        image, weight = ctx.saved_tensors
        of_image, of_weight, of_bias = ctx.needs_input_grad[:3]
        outer = outer.contiguous(memory_format=torch.channels_last)
        gradients: list[Tensor | None] = [None, None, None]
        with torch.autocast("cpu", enabled=False):
            if of_image:
                gradients[0] = _of_image(ctx, outer, image, weight)
            if of_weight:
                gradients[1] = _of_weight(ctx, outer, image, weight)
            if of_bias:
                gradients[2] = outer.float().sum((0, 2, 3))
        return (*gradients, None, None, None)


def _of_image(ctx: Any, outer: Tensor, image: Tensor, weight: Tensor) -> Tensor:
    """Gradient of the image: every pixel spreads over the kernel's taps, which is a convolution the other way round.

    Where each result has its own place (stride 1) it is one with the kernel turned round, in the image's type. Its
    zeros around are those which let a side grow by as much as the forward pass has shrunk it.
    """
    reach = [taps * (side - 1) for taps, side in zip(ctx.dilation, weight.shape[2:], strict=True)]
    around = [far - zeros for far, zeros in zip(reach, ctx.padding, strict=True)]
    channels = weight.shape[0]
    if max(ctx.stride) == 1 and min(around) >= 0:
        turned = weight.to(image.dtype).flip(2, 3)
        return F.conv2d(outer, turned, None, 1, around, ctx.dilation, channels)
    sides = zip(image.shape[2:], outer.shape[2:], ctx.stride, ctx.padding, reach, strict=True)
    unseen = [old - ((new - 1) * step - 2 * zeros + far + 1) for old, new, step, zeros, far in sides]  # at the end
    wide = F.conv_transpose2d(
        outer.float(), weight.float(), None, ctx.stride, ctx.padding, unseen, channels, ctx.dilation
    )
    return wide.to(image.dtype)


def _of_weight(ctx: Any, outer: Tensor, image: Tensor, weight: Tensor) -> Tensor:
    """Gradient of the weight by torch, in float32 where it would be a loop in bfloat16."""
    if max(weight.shape[2:]) > FAST or max(ctx.dilation) > 1:
        outer, image = outer.float(), image.float()
    gradient: Tensor = torch.ops.aten.convolution_backward(
        outer,
        image,
        weight.to(image.dtype),
        None,
        ctx.stride,
        ctx.padding,
        ctx.dilation,
        False,  # not transposed
        [0, 0],
        weight.shape[0],
        [False, True, False],
    )[1]
    return gradient
