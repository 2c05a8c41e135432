"""MobileNetV2 of the public DeepLab code base: dilated, and padded before the expansion.

Source: spec/deeplab.md section 2.2. The blocks are torchvision's; what differs is where they pad.
"""

from __future__ import annotations

from itertools import pairwise
from typing import cast

from timm.models import FeatureInfo
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import MobileNet_V2_Weights, mobilenet_v2
from torchvision.models.mobilenetv2 import InvertedResidual

from barm.words import natural

NAME = "deeplab_mobilenetv2"
LOW_LEVEL = 3  # index of the last block at stride 4
LAST = 17


class PaddedResidual(nn.Module):
    """An inverted residual whose input is padded, so that the padding passes through the expansion.

    Args:
        block: torchvision's; its depthwise convolution is changed.
        stride: of the depthwise convolution.
        dilation: of the depthwise convolution.
    """

    def __init__(self, block: InvertedResidual, stride: int, dilation: int) -> None:
        super().__init__()
        self.conv = block.conv
        self.dilation = dilation
        depthwise = next(m for m in self.conv.modules() if isinstance(m, nn.Conv2d) and m.groups > 1)
        depthwise.stride, depthwise.dilation, depthwise.padding = (stride,) * 2, (dilation,) * 2, (0, 0)
        first, *_, last = (m for m in self.conv.modules() if isinstance(m, nn.Conv2d))
        self.shortcut = stride == 1 and first.in_channels == last.out_channels

    def forward(self, x: Tensor) -> Tensor:
        """``(N, B, h, w)`` -> ``(N, B', h / stride, w / stride)``."""
        y = cast(Tensor, self.conv(F.pad(x, (self.dilation,) * 4)))
        return x + y if self.shortcut else y


class MobileNetV2(nn.Module):
    """Features at stride 4 and at the output stride; tensor names are the published ones.

    Args:
        output_stride: 8 or 16.
        pretrained: torchvision's ImageNet weights, which were trained with ordinary padding.
        low_level: return the features at stride 4 too.
    """

    def __init__(self, output_stride: int, *, pretrained: bool, low_level: bool) -> None:
        super().__init__()
        features = mobilenet_v2(weights=MobileNet_V2_Weights.IMAGENET1K_V1 if pretrained else None).features
        stem = cast(nn.Sequential, features[0])
        cast(nn.Conv2d, stem[0]).padding = (0, 0)  # the first convolution is not padded at all
        total, dilation = 2, 1
        blocks: dict[str, nn.Module] = {"0": stem}
        for index in range(1, LAST + 1):
            block = cast(InvertedResidual, features[index])
            stride, own = block.stride, dilation
            if stride > 1 and total >= output_stride:
                dilation, stride = dilation * stride, 1  # the first block of a group keeps the dilation before
            total *= stride
            blocks[str(index)] = PaddedResidual(block, stride, own)
        cuts = [0, LOW_LEVEL + 1, LAST + 1]
        low, high = ({str(i): blocks[str(i)] for i in range(a, b)} for a, b in pairwise(cuts))
        self.low_level_features, self.high_level_features = nn.Sequential(), nn.Sequential()
        for part, modules in ((self.low_level_features, low), (self.high_level_features, high)):
            for name, module in modules.items():
                part.add_module(name, module)
        stages = [
            {"num_chs": 24, "reduction": 4, "module": "low_level_features"},
            {"num_chs": 320, "reduction": output_stride, "module": "high_level_features"},
        ]
        self.feature_info = FeatureInfo(stages, (0, 1) if low_level else (1,))
        self.low_level = low_level

    def forward(self, image: Tensor) -> list[Tensor]:
        """Normalised RGB ``(N, 3, H, W)`` -> feature maps, the last at the output stride."""
        low = self.low_level_features(image)
        high = self.high_level_features(low)
        return [low, high] if self.low_level else [high]


def own_name(name: str) -> str:
    """Convert torchvision's name of a tensor to ours: ``features.5.x`` -> ``high_level_features.5.x``."""
    head, _, rest = name.partition(".")
    index = natural(rest.split(".")[0])
    if head != "features" or index is None:
        return name
    return f"{'low' if index <= LOW_LEVEL else 'high'}_level_features.{rest}"
