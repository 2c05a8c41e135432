"""Between backbone and classifier: ASPP, with or without the decoder of DeepLabV3+.

Source: spec/deeplab.md section 3.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.models.segmentation.deeplabv3 import ASPP

LOW_LEVEL_CHANNELS = 48


class AtrousNeck(ASPP):  # type: ignore[misc]  # torchvision is not typed
    """DeepLabV3: atrous spatial pyramid pooling of the last feature map.

    Args:
        in_channels: of the backbone's feature maps; the last counts.
        rates: of the three atrous branches.
        channels: of the result.
        dropout: at the end, while training.
    """

    def __init__(self, in_channels: Sequence[int], rates: Sequence[int], channels: int, dropout: float) -> None:
        super().__init__(in_channels[-1], list(rates), channels)
        self.project[3].p = dropout
        self.width = channels

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Feature maps -> ``(N, width, h, w)`` at the last one's size."""
        result: Tensor = super().forward(features[-1])
        return result


class DecoderNeck(nn.Module):
    """DeepLabV3+: that, resized to the features at stride 4 and beside them; arguments as for `AtrousNeck`."""

    def __init__(self, in_channels: Sequence[int], rates: Sequence[int], channels: int, dropout: float) -> None:
        super().__init__()
        self.low = nn.Sequential(
            nn.Conv2d(in_channels[0], LOW_LEVEL_CHANNELS, 1, bias=False), nn.BatchNorm2d(LOW_LEVEL_CHANNELS), nn.ReLU()
        )
        self.aspp = AtrousNeck(in_channels, rates, channels, dropout)
        self.width = LOW_LEVEL_CHANNELS + channels

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Feature maps, the first at stride 4 -> ``(N, width, h, w)`` at that one's size."""
        low = self.low(features[0])
        high = nn.functional.interpolate(self.aspp(features), low.shape[2:], mode="bilinear", align_corners=False)
        return torch.cat([low, high], dim=1)


Neck = AtrousNeck | DecoderNeck


class SeparableConv(nn.Module):
    """A depthwise and then a pointwise convolution, nothing in between (section 3.1)."""

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
    """Replace every convolution with a kernel above 1 inside a module, in place."""
    for name, child in list(module.named_children()):
        if isinstance(child, nn.Conv2d) and child.kernel_size[0] > 1:
            setattr(module, name, SeparableConv(child))
        else:
            make_separable(child)
