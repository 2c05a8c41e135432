"""Padding in exported graphs: timm's to the value, in formulas that stay short."""

from __future__ import annotations

import time

import pytest
import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.pool2d_same import AvgPool2dSame, MaxPool2dSame
from timm.layers.std_conv import StdConv2dSame
from torch import nn

from barm.labels import Step
from barm.methods import METHODS
from barm.models.segmenter import NetworkConfig
from barm.weights.export.padding import pad_simply
from barm.weights.export.portable import Portable, trace

LAYERS = {
    "convolution": lambda k, s: Conv2dSame(2, 3, k, stride=s),
    "dilated": lambda k, s: Conv2dSame(2, 4, k, stride=s, dilation=2, groups=2, bias=False),
    "standardised": lambda k, s: StdConv2dSame(2, 3, k, stride=s),
    "largest": MaxPool2dSame,
    "average": AvgPool2dSame,
}


@pytest.mark.parametrize("window", [(1, 2), (2, 1), (3, 1), (3, 2), (5, 2), (7, 2), (3, 3)])
@pytest.mark.parametrize("name", LAYERS)
def test_as_timm_pads(name, window):
    torch.manual_seed(0)
    layer = nn.Sequential(LAYERS[name](*window)).eval()
    images = [torch.randn(1, 2, height, 23 - height) for height in range(8, 16)]
    with torch.no_grad():
        expected = [layer(image) for image in images]
        pad_simply(layer)
        assert all(torch.equal(layer(p), e) for p, e in zip(images, expected, strict=True))
    assert not any(isinstance(m, Conv2dSame | MaxPool2dSame | AvgPool2dSame) for m in layer.modules())


def portable(backbone: str) -> Portable:
    step = Step(0, ((1, 2),))
    network = NetworkConfig(backbone=backbone, channels=8, pretrained=False)
    method = METHODS["barm"]().build(step, network)
    return Portable(method.build_model(), method)


def test_nothing_is_written_into_its_argument():
    """Functions that write into an argument are taken apart one by one, with a check of all sizes at each."""
    assert not any(getattr(module, "inplace", False) for module in portable("tf_efficientnet_lite0").modules())


@pytest.mark.graph
@pytest.mark.slow
def test_sizes_stay_short_where_padding_follows_the_size():
    """With timm's form of the padding this took minutes, and the sizes were formulas of thousands of signs."""
    began = time.monotonic()
    program = trace(portable("tf_efficientnet_lite0")).program
    shapes = [str(node.meta["val"].shape) for node in program.graph.nodes if "conv2d" in str(node.target)]
    assert len(shapes) > 40
    assert max(map(len, shapes)) < 200
    assert time.monotonic() - began < 60
