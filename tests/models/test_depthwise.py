"""Depthwise convolutions: their gradients, which of them are made fast, and that the network can be what it was."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn

from barm.engine.config import RuntimeConfig
from barm.engine.runtime import Runtime, unwrap
from barm.models.batch_norm import NormedConv, ordinary, take_in
from barm.models.depthwise import Depthwise, DepthwiseSame, speed_up_depthwise
from barm.models.reclassed import Reclassed

CHANNELS = 6
LAYERS = {
    "3 x 3": nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, groups=CHANNELS, bias=False),
    "5 x 5 with bias": nn.Conv2d(CHANNELS, CHANNELS, 5, padding=2, groups=CHANNELS),
    "dilated": nn.Conv2d(CHANNELS, CHANNELS, 3, padding=4, dilation=4, groups=CHANNELS, bias=False),
    "strided": nn.Conv2d(CHANNELS, CHANNELS, 5, padding=2, stride=2, groups=CHANNELS),
    "more zeros than the kernel reaches": nn.Conv2d(CHANNELS, CHANNELS, 3, padding=4, groups=CHANNELS),
    "axes that differ": nn.Conv2d(CHANNELS, CHANNELS, (3, 5), (1, 2), (0, 3), (2, 1), groups=CHANNELS),
    "as TensorFlow pads": Conv2dSame(CHANNELS, CHANNELS, 5, stride=2, groups=CHANNELS),
}


def short(tensor: Tensor) -> Tensor:
    """The nearest numbers that bfloat16 has."""
    return tensor.bfloat16().float()


def gradients(layer: nn.Module, image: Tensor, *, bf16: bool = False) -> list[Tensor]:
    """Result, and the gradients of the image and the parameters."""
    image = image.clone(memory_format=torch.preserve_format).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        result = layer(image)
    pull = short(torch.sin(torch.arange(result.numel()))).view_as(result).to(result.dtype)
    learned = [parameter for parameter in layer.parameters() if parameter.requires_grad]
    return [result.detach(), *torch.autograd.grad(result, [image, *learned], pull)]


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("bf16", [False, True], ids=["float32", "autocast"])
def test_gradients_equal_torch_s(name, bf16):
    torch.manual_seed(0)
    layer = copy.deepcopy(LAYERS[name])
    for parameter in layer.parameters():
        parameter.data = short(parameter.data)
    exact_layer = copy.deepcopy(layer).double()
    image = short(torch.randn(2, CHANNELS, 13, 11)).contiguous(memory_format=torch.channels_last)
    plain = gradients(layer, image, bf16=bf16)
    speed_up_depthwise(layer)
    assert isinstance(layer, Reclassed)
    fast = gradients(layer, image, bf16=bf16)
    assert "_DepthwiseBackward" in type(layer(image).grad_fn).__name__
    assert torch.equal(fast[0], plain[0])
    exact = gradients(exact_layer, image.double())
    tolerance = 0.02 if bf16 else 1e-5
    for ours, theirs, right in zip(fast[1:], plain[1:], exact[1:], strict=True):
        assert ours.dtype == theirs.dtype == torch.float32
        scale = float(right.abs().max())
        assert float((ours - right).abs().max()) < tolerance * scale
        assert float((theirs - right).abs().max()) < tolerance * scale


@pytest.mark.parametrize("frozen", ["image", "weight"])
def test_only_the_gradients_that_are_asked_for(frozen):
    layer = copy.deepcopy(LAYERS["dilated"])
    speed_up_depthwise(layer)
    image = torch.randn(1, CHANNELS, 9, 9).contiguous(memory_format=torch.channels_last)
    image.requires_grad_(frozen != "image")
    layer.weight.requires_grad_(frozen != "weight")
    layer(image).sum().backward()
    assert (image.grad is None) == (frozen == "image")
    assert (layer.weight.grad is None) == (frozen == "weight")


def test_other_layouts_and_types_stay_with_torch():
    layer = copy.deepcopy(LAYERS["dilated"])
    image = torch.randn(2, CHANNELS, 9, 9)
    last = image.double().contiguous(memory_format=torch.channels_last)
    plain = gradients(layer, image), gradients(layer.double(), last)
    speed_up_depthwise(layer)
    assert all(map(torch.equal, gradients(layer, last), plain[1]))
    assert all(map(torch.equal, gradients(layer.float(), image), plain[0]))


def test_which_layers_are_made_fast():
    layers = nn.ModuleList(
        [
            nn.Conv2d(4, 4, 3, groups=4),
            nn.Conv2d(4, 8, 3, groups=4),
            nn.Conv2d(4, 4, 3, groups=2),
            nn.Conv2d(1, 1, 3),
            nn.Conv2d(4, 4, 3, groups=4, padding="same"),
            nn.Conv2d(4, 4, 3, groups=4, padding=1, padding_mode="reflect"),
        ]
    )
    speed_up_depthwise(layers)
    assert [isinstance(layer, Reclassed) for layer in layers] == [True, False, False, False, False, False]


def test_with_the_frozen_norm_after_it():
    layer, norm = copy.deepcopy(LAYERS["dilated"]), nn.BatchNorm2d(CHANNELS).eval()
    norm.running_mean.normal_(generator=torch.Generator().manual_seed(1))
    image = torch.randn(2, CHANNELS, 9, 9).contiguous(memory_format=torch.channels_last)
    norm.requires_grad_(False)
    before = gradients(nn.Sequential(layer, norm), image)
    take_in(layer, norm)
    speed_up_depthwise(layer)
    assert isinstance(layer, NormedConv)
    assert isinstance(layer, Depthwise)
    for ours, theirs in zip(gradients(nn.Sequential(layer, norm), image), before, strict=True):
        torch.testing.assert_close(ours, theirs)
    whole = ordinary(nn.Sequential(layer, norm))
    assert [type(part) for part in whole] == [nn.Conv2d, nn.BatchNorm2d]


def test_a_network_in_training_and_after_it():
    rt = Runtime(RuntimeConfig(device="cpu"))
    network = rt.place(timm.create_model("tf_efficientnet_lite0", pretrained=False, features_only=True))
    kinds = [type(module) for module in network.modules()]
    sgd = torch.optim.SGD(network.parameters(), lr=0.1)
    wrapped, _ = rt.setup(network, sgd, trains_bn=True)
    fast = [m for m in unwrap(wrapped).modules() if isinstance(m, Depthwise | DepthwiseSame)]
    assert [sum(isinstance(m, kind) for m in fast) for kind in (Depthwise, DepthwiseSame)] == [12, 4]
    back = ordinary(unwrap(wrapped))
    assert [type(module) for module in back.modules()] == kinds
    assert all(a is b for a, b in zip(back.parameters(), network.parameters(), strict=True))
