"""Necks between backbone and classifier: ASPP, alone, with the decoder of DeepLabV3+, or as MiB and PLOP have it.

Source: spec/deeplab.md section 3, spec/mib.md section 7.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.segmentation.deeplabv3 import ASPP

LOW_LEVEL_CHANNELS = 48
LEAK = 0.01  # slope of the leaky ReLU
POOL = 32  # side of the window of the image-level branch in evaluation
is_exporting = getattr(torch.compiler, "is_exporting", lambda: False)  # older releases of torch export no graph here


class Neck(nn.Module):
    """Base class of what joins the backbone's feature maps for the classifier.

    Attributes:
        width: channels of its result.
        refine: whether a growing classifier adds one more 3x3 convolution after it, all initialised by Kaiming's rule.
            Otherwise the neck initialises itself, and the classifier's weights stay at the framework's default.
        kernel: side of the window of the classifier's convolutions in pixels.
    """

    width: int
    refine: bool = True
    kernel: int = 1

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Join feature maps, the last the deepest -> ``(N, width, h, w)``."""
        raise NotImplementedError


class AtrousNeck(ASPP, Neck):  # type: ignore[misc]  # torchvision is not typed
    """DeepLabV3: atrous spatial pyramid pooling of the last feature map.

    Args:
        in_channels: of the backbone's feature maps; the last counts.
        rates: of the three atrous branches.
        channels: of the result.
        dropout: at the end, while training.
    """

    def __init__(self, in_channels: Sequence[int], rates: Sequence[int], channels: int, dropout: float) -> None:
        super().__init__(in_channels[-1], list(rates), channels)
        cast(nn.Dropout, cast(nn.Sequential, self.project)[3]).p = dropout
        self.width = channels

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Join feature maps -> ``(N, width, h, w)`` at the last one's size."""
        result: Tensor = ASPP.forward(self, features[-1])
        return result


class DecoderNeck(Neck):
    """DeepLabV3+: `AtrousNeck` resized and joined with the features at stride 4. Arguments as there."""

    def __init__(self, in_channels: Sequence[int], rates: Sequence[int], channels: int, dropout: float) -> None:
        super().__init__()
        self.low = nn.Sequential(
            nn.Conv2d(in_channels[0], LOW_LEVEL_CHANNELS, 1, bias=False), nn.BatchNorm2d(LOW_LEVEL_CHANNELS), nn.ReLU()
        )
        self.aspp = AtrousNeck(in_channels, rates, channels, dropout)
        self.width = LOW_LEVEL_CHANNELS + channels

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Join feature maps, the first at stride 4 -> ``(N, width, h, w)`` at that one's size."""
        low = self.low(features[0])
        high = F.interpolate(self.aspp(features), low.shape[2:], mode="bilinear", align_corners=False)
        return torch.cat([low, high], dim=1)


class AddedPoolNeck(Neck):
    """ASPP of MiB and PLOP: the image-level branch is added to the others; leaky ReLU. Arguments as for `AtrousNeck`.

    Source: spec/mib.md section 7.
    """

    refine = False

    def __init__(self, in_channels: Sequence[int], rates: Sequence[int], channels: int, dropout: float) -> None:
        super().__init__()
        last = in_channels[-1]
        self.convs = nn.ModuleList(
            nn.Conv2d(last, channels, 3 if r else 1, padding=r, dilation=r or 1, bias=False) for r in (0, *rates)
        )
        self.norm = _norm_act(4 * channels)
        self.reduce = nn.Conv2d(4 * channels, channels, 1, bias=False)
        self.pool_conv = nn.Conv2d(last, channels, 1, bias=False)
        self.pool_norm = _norm_act(channels)
        self.pool_reduce = nn.Conv2d(channels, channels, 1, bias=False)
        self.last_norm = _norm_act(channels)
        self.dropout = nn.Dropout(dropout)
        self.width = channels
        self.draw(nn.init.calculate_gain("leaky_relu", LEAK))

    def draw(self, gain: float) -> None:
        """Draw the weights of all convolutions by Xavier's normal rule."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_normal_(module.weight, gain)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Join feature maps -> ``(N, width, h, w)`` at the last one's size."""
        x = features[-1]
        branches = self.reduce(self.norm(torch.cat([conv(x) for conv in self.convs], dim=1)))
        pooled = self.pool_reduce(self.pool_norm(self.pool_conv(self._pool(x))))
        result: Tensor = self.dropout(self.last_norm(branches + pooled))
        return result

    def _pool(self, x: Tensor) -> Tensor:
        """Mean of the image-level branch: global in training, over a window in evaluation, padded by its border."""
        h, w = x.shape[2:]
        if is_exporting() and not self.training:
            return torch.einsum("ip,ncpq,jq->ncij", _windows(h, x), x, _windows(w, x))
        if self.training or max(h, w) <= POOL:
            return x.mean(dim=(2, 3), keepdim=True)
        window = (min(POOL, h), min(POOL, w))
        mean = F.avg_pool2d(x, window, stride=1)
        before, after = ([(k - 1) // 2 for k in window], [k // 2 for k in window])
        return F.pad(mean, (before[1], after[1], before[0], after[0]), mode="replicate")


def _windows(length: int, like: Tensor) -> Tensor:
    """Averaging matrix of `AddedPoolNeck` along one axis, ``(length, length)``, in a form without branches.

    >>> _windows(3, torch.zeros(1))[0]
    tensor([0.3333, 0.3333, 0.3333])
    """
    at = torch.arange(length, device=like.device)
    window = torch.full((), length, device=like.device).clamp(max=POOL)
    first = (at - (window - 1) // 2).clamp(min=0).minimum(length - window)
    offset = at - first.unsqueeze(1)
    return ((offset >= 0) & (offset < window)).to(like.dtype) / window


def _norm_act(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm2d(channels), nn.LeakyReLU(LEAK))


class SeparableConv(nn.Module):
    """A depthwise convolution followed directly by a pointwise one (section 3.1)."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        depthwise = nn.Conv2d(
            conv.in_channels,
            conv.in_channels,
            conv.kernel_size,  # type: ignore[arg-type]
            conv.stride,  # type: ignore[arg-type]
            conv.padding,  # type: ignore[arg-type]
            conv.dilation,  # type: ignore[arg-type]
            groups=conv.in_channels,
            bias=False,
        )
        self.body = nn.Sequential(depthwise, nn.Conv2d(conv.in_channels, conv.out_channels, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """``(N, B, h, w)`` -> ``(N, D, h, w)``."""
        result: Tensor = self.body(x)
        return result


def make_separable(module: nn.Module) -> None:
    """Replace every convolution in a module whose kernel is larger than 1 by a `SeparableConv`, in place."""
    for name, child in list(module.named_children()):
        if isinstance(child, nn.Conv2d) and child.kernel_size[0] > 1:
            setattr(module, name, SeparableConv(child))
        else:
            make_separable(child)
