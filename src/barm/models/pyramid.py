"""Feature pyramid: one map at the output stride from those of a network that cannot be dilated.

Source: Lin et al., Feature Pyramid Networks for Object Detection, 2017: lateral 1x1 convolutions, sums from coarse to
fine, one 3x3 convolution. Batch norm follows both, since the maps of transformers are not normalised.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from barm.models.backbone import LOW_LEVEL_STRIDE, num_channels
from barm.models.neck import Neck
from barm.models.undilated import Undilated

WIDTH = 256  # channels of the pyramid, as published


class PyramidNeck(Neck):
    """A pyramid, and a neck that takes its finest map as the last one of a dilated backbone.

    Args:
        in_channels: of the maps to be joined, from fine to coarse.
        neck: takes what is before them, if anything, and the pyramid's map.
    """

    def __init__(self, in_channels: Sequence[int], neck: Neck) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, WIDTH, 1, bias=False), nn.BatchNorm2d(WIDTH)) for channels in in_channels
        )
        self.smooth = nn.Sequential(nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False), nn.BatchNorm2d(WIDTH), nn.ReLU())
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
        self.neck = neck
        self.width, self.refine = neck.width, neck.refine

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Join feature maps, from fine to coarse -> ``(N, width, h, w)``."""
        before, maps = features[: -len(self.lateral)], features[-len(self.lateral) :]
        sides = [lateral(x) for lateral, x in zip(self.lateral, maps, strict=True)]
        top = sides[-1]
        for side in reversed(sides[:-1]):
            top = side + F.interpolate(top, side.shape[2:], mode="bilinear", align_corners=False)
        result: Tensor = self.neck([*before, self.smooth(top)])
        return result


def make_neck(
    backbone: nn.Module, kind: Callable[..., Neck], rates: Sequence[int], channels: int, dropout: float
) -> Neck:
    """Build the neck of a backbone, below a pyramid where the backbone gives maps at several strides.

    Args:
        backbone: from `create_backbone`.
        kind: a neck's class.
        rates: of its atrous branches.
        channels: of its result.
        dropout: at its end, while training.
    """
    own = num_channels(backbone)
    if not isinstance(backbone, Undilated) or backbone.form.tokens:
        return kind(own, rates, channels, dropout)
    low = 1 if backbone.form.strides[0] == LOW_LEVEL_STRIDE and len(own) > 1 else 0
    return PyramidNeck(own[low:], kind([*own[:low], WIDTH], rates, channels, dropout))
