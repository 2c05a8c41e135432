"""Depthwise convolutions: their gradients, which of them are made fast, and that the network can be what it was."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import pytest
import timm
import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.std_conv import StdConv2d
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from barm.engine.config import RuntimeConfig
from barm.engine.runtime import Runtime, unwrap
from barm.models.batch_norm import NormedConv, ordinary, take_in
from barm.models.depthwise import Depthwise, DepthwiseSame, speed_up_depthwise
from barm.models.reclassed import Reclassed

C = 6
LAYERS = {
    "5 x 5": nn.Conv2d(C, C, 5, padding=2, groups=C),
    "strided": nn.Conv2d(C, C, 3, padding=1, stride=2, groups=C, bias=False),
    "5 x 5, strided": nn.Conv2d(C, C, 5, padding=2, stride=2, groups=C),
    "dilated": nn.Conv2d(C, C, 3, padding=4, dilation=4, groups=C, bias=False),
    "dilated and strided": nn.Conv2d(C, C, 3, padding=2, dilation=2, stride=3, groups=C),
    "more zeros than the kernel reaches": nn.Conv2d(C, C, 3, padding=5, dilation=2, groups=C),
    "an even side": nn.Conv2d(C, C, 4, padding=1, dilation=2, groups=C),
    "axes that differ": nn.Conv2d(C, C, (3, 5), (1, 2), (0, 3), (2, 1), groups=C),
    "as TensorFlow pads": Conv2dSame(C, C, 5, stride=2, groups=C),
}
IMAGE = torch.randn(2, C, 13, 11, generator=torch.Generator().manual_seed(0)).bfloat16().float()
ALL = "dilated", "more zeros than the kernel reaches", "an even side"  # fast in float32 too


def layer(name: str) -> nn.Conv2d:
    """A layer whose numbers bfloat16 has."""
    made = copy.deepcopy(LAYERS[name]).to(memory_format=torch.channels_last)
    for parameter in made.parameters():
        parameter.data = parameter.data.bfloat16().float()
    return made


def last(image: Tensor) -> Tensor:
    return image.contiguous(memory_format=torch.channels_last)


def fast(module: nn.Module) -> nn.Module:
    speed_up_depthwise(module)
    return module


def gradients(module: nn.Module, image: Tensor, *, bf16: bool = False) -> tuple[list[Tensor], str]:
    """Result, and gradients of image and parameters; name of the operation that the backward pass begins with."""
    image = image.clone(memory_format=torch.preserve_format).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        result = module(image)
    pull = torch.sin(torch.arange(result.numel())).bfloat16().view_as(result).to(result.dtype)
    learned = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return [result.detach(), *torch.autograd.grad(result, [image, *learned], pull)], type(result.grad_fn).__name__


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("bf16", [False, True], ids=["float32", "autocast"])
def test_gradients_equal_torch_s(name, bf16):
    plain, _ = gradients(layer(name), last(IMAGE), bf16=bf16)
    ours, operation = gradients(fast(layer(name)), last(IMAGE), bf16=bf16)
    assert (operation == "_DepthwiseBackward") == (bf16 or name in ALL)
    assert torch.equal(ours[0], plain[0])
    exact, _ = gradients(layer(name).double(), IMAGE.double())
    tolerance = 0.01 if bf16 else 1e-5
    for own, theirs, right in zip(ours[1:], plain[1:], exact[1:], strict=True):
        assert own.dtype == theirs.dtype == torch.float32
        assert own.stride() == theirs.stride()
        assert float((own - right).abs().max()) < tolerance * float(right.abs().max())


class Convolutions(TorchDispatchMode):
    """Context that notes which convolutions run in which type."""

    def __enter__(self) -> Convolutions:
        self.seen = set[str]()
        super().__enter__()
        return self

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        name = func.overloadpacket.__name__
        if "convolution" in name:
            kind = "transposed" if name == "convolution" and args[6] else name
            self.seen.add(f"{kind} {str(args[0].dtype).removeprefix('torch.')}")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("name", "bf16", "expected"),
    [
        ("5 x 5", True, {"convolution bfloat16", "convolution_backward float32"}),
        ("dilated", True, {"convolution bfloat16", "convolution_backward float32"}),
        ("strided", True, {"transposed float32", "convolution_backward bfloat16"}),
        ("5 x 5, strided", True, {"transposed float32", "convolution_backward float32"}),
        ("dilated", False, {"convolution float32", "convolution_backward float32"}),
        ("5 x 5", False, {"convolution_backward float32"}),
    ],
)
def test_how_the_gradients_are_computed(name, bf16, expected):
    """Nothing runs in bfloat16 that is a loop there."""
    module, image = fast(layer(name)), last(IMAGE).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        result = module(image)
    with Convolutions() as noted:
        result.sum().backward()
    assert noted.seen == expected


def test_no_backward_pass_no_other_operation():
    module = fast(layer("dilated"))
    with torch.no_grad():
        assert module(last(IMAGE)).grad_fn is None
    assert "Convolution" in gradients(module, IMAGE)[1]  # not channels last
    assert "Convolution" in gradients(module.double(), last(IMAGE.double()))[1]


@pytest.mark.parametrize("frozen", ["image", "weight"])
def test_only_the_gradients_that_are_asked_for(frozen):
    module, image = fast(layer("dilated")), last(IMAGE)
    image.requires_grad_(frozen != "image")
    module.weight.requires_grad_(frozen != "weight")
    module(image).sum().backward()
    assert (image.grad is None) == (frozen == "image")
    assert (module.weight.grad is None) == (frozen == "weight")


@pytest.mark.parametrize("name", ["dilated", "dilated and strided", "5 x 5, strided"])
def test_a_penalty_on_the_gradient(name):
    def penalty(module: nn.Module) -> Tensor:
        image = last(IMAGE).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            value = module(image).float().square().sum()
        (slope,) = torch.autograd.grad(value, image, create_graph=True)
        slope.square().sum().backward()
        return module.weight.grad

    expected = penalty(layer(name))
    torch.testing.assert_close(penalty(fast(layer(name))), expected, rtol=0.02, atol=0.02 * float(expected.abs().max()))


def test_a_backward_pass_under_autocast_is_the_same():
    module = fast(layer("dilated"))
    result = module(image := last(IMAGE).requires_grad_())
    outside = torch.autograd.grad(result.sum(), [image, module.weight], retain_graph=True)
    with torch.autocast("cpu", torch.bfloat16):
        inside = torch.autograd.grad(result.sum(), [image, module.weight])
    assert all(map(torch.equal, inside, outside))


@pytest.mark.parametrize(
    "image",
    [torch.zeros(2, 3, 8, 8), torch.zeros(2, C, 8, 8).bfloat16(), torch.zeros(1, C, 2, 2)],
    ids=["other channels", "another type", "too small"],
)
def test_what_torch_refuses_is_refused_alike(image):
    plain = nn.Conv2d(C, C, 3, dilation=2, groups=C)
    with pytest.raises(RuntimeError) as expected:
        plain(last(image))
    with pytest.raises(RuntimeError) as found:
        fast(plain)(last(image))
    assert str(found.value) == str(expected.value)


def test_an_image_without_a_batch_and_another_type_under_autocast():
    module = layer("dilated")
    expected = module(IMAGE[0])
    assert torch.equal(fast(module)(IMAGE[0]), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert module.double()(last(IMAGE.double())).dtype == torch.float64


def test_which_layers_are_made_fast():
    layers = {
        nn.Conv2d(4, 4, 5, groups=4): True,
        nn.Conv2d(4, 4, 3, groups=4): False,  # torch is fast
        nn.Conv2d(4, 8, 5, groups=4): False,
        nn.Conv2d(4, 4, 5, groups=2): False,
        nn.Conv2d(1, 1, 5): False,
        nn.Conv2d(4, 4, 5, groups=4, padding="same"): False,
        nn.Conv2d(4, 4, 5, groups=4, padding=1, padding_mode="reflect"): False,
        StdConv2d(4, 4, 5, groups=4): False,  # a forward pass of its own
    }
    network = nn.ModuleList(layers)
    speed_up_depthwise(network)
    kinds = [type(module) for module in network]
    assert [isinstance(module, Reclassed) for module in network] == list(layers.values())
    speed_up_depthwise(network)
    assert [type(module) for module in network] == kinds


def test_with_the_frozen_norm_after_it():
    conv, norm = copy.deepcopy(LAYERS["dilated"]), nn.BatchNorm2d(C).eval().requires_grad_(False)
    norm.running_mean.normal_(generator=torch.Generator().manual_seed(1))
    both = nn.Sequential(conv, norm)
    before, _ = gradients(both, last(IMAGE))
    take_in(conv, norm)
    speed_up_depthwise(both)
    assert isinstance(conv, NormedConv)
    assert isinstance(conv, Depthwise)
    for ours, theirs in zip(gradients(both, last(IMAGE))[0], before, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert [type(part) for part in ordinary(both)] == [nn.Conv2d, nn.BatchNorm2d]


def test_a_network_in_training_and_after_it():
    rt = Runtime(RuntimeConfig(device="cpu"))
    network = rt.place(timm.create_model("tf_efficientnet_lite0", pretrained=False, features_only=True))
    kinds = [type(module) for module in network.modules()]
    wrapped, _ = rt.setup(network, torch.optim.SGD(network.parameters(), lr=0.1), trains_bn=True)
    made = [m for m in unwrap(wrapped).modules() if isinstance(m, Reclassed)]
    assert [sum(isinstance(m, kind) for m in made) for kind in (Depthwise, DepthwiseSame)] == [
        7,
        4,
    ]  # of 16, five are 3 x 3
    back = ordinary(unwrap(wrapped))
    assert [type(module) for module in back.modules()] == kinds
    assert all(a is b for a, b in zip(back.parameters(), network.parameters(), strict=True))


@pytest.mark.parametrize("last_before", [False, True])
@pytest.mark.parametrize("wanted", [False, True])
def test_a_network_is_placed_in_the_configured_layout(last_before, wanted):
    network = nn.Conv2d(4, 4, 3)
    if last_before:
        network.to(memory_format=torch.channels_last)
    placed = Runtime(RuntimeConfig(device="cpu", channels_last=wanted)).place(network)
    assert placed.weight.is_contiguous(memory_format=torch.channels_last) == wanted
