"""A network with folded batch norm computes what it did before."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from statistics_of_norms import settled
from timm.layers import StdConv2d
from torch import nn

from barm.engine.config import RuntimeConfig
from barm.engine.runtime import Runtime
from barm.labels import TaskPlan
from barm.methods import METHODS
from barm.models.frozen import fold_batch_norm
from barm.models.segmenter import NetworkConfig


def network_of(**options) -> NetworkConfig:
    return NetworkConfig(**{"backbone": "test_resnet", "channels": 16, "pretrained": False, **options})


def norms(model: nn.Module) -> int:
    return sum(isinstance(m, nn.BatchNorm2d) for m in model.modules())


def tensors(out) -> list[torch.Tensor]:
    return [t for part in out for t in (part if isinstance(part, tuple) else (part,))]


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ({}, 0),
        ({"decoder": "v3plus"}, 0),
        ({"backbone": "deeplab_mobilenetv2"}, 0),
        ({"backbone": "deeplab_mobilenetv2", "decoder": "v3plus", "separable": True}, 0),
        ({"backbone": "efficientnet_lite0"}, 0),
        ({"decoder": "added_pool", "activation": "leaky_relu"}, 2),  # two follow a concatenation and a sum
    ],
    ids=str,
)
def test_the_same_function(options, left):
    method = METHODS["finetune"]().build(TaskPlan.parse("2-1", 4)[1], network_of(**options))
    model = settled(method.build_model()).eval()
    image = torch.randn(2, 3, 65, 49)
    with torch.no_grad():
        before = tensors(model(image))
        folded = fold_batch_norm(model)
        after = tensors(folded(image))
    assert norms(folded) == left
    for a, b in zip(before, after, strict=True):
        assert float((a - b).abs().max()) <= 1e-4 * float(a.abs().max())


@pytest.mark.others("dft", "finetune", "ilt", "joint", "lwf", "plop")
@pytest.mark.parametrize("name", sorted(METHODS))
@pytest.mark.parametrize("index", [0, 2])
def test_constants_of_every_method(name, index):
    """The previous step's network as training sees it: same outputs, no gradient, the network itself untouched."""
    method = METHODS[name](name=name).build(TaskPlan.parse("2-1", 4)[index], network_of())
    model = settled(method.build_model()).eval()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    image = torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        before = tensors(model(image))
    for precision, tolerance in (("32-true", 1e-4), ("bf16-mixed", 0.1)):
        rt = Runtime(RuntimeConfig(device="cpu", precision=precision))
        constant = rt.constant(model)
        assert norms(constant.network) == 0
        for a, b in zip(before, tensors(constant(image)), strict=True):
            assert b.dtype == torch.float32
            assert not b.is_inference()
            assert float((a - b).abs().max()) <= tolerance * float(a.abs().max())
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


class Case(nn.Module):
    """A convolution and a batch norm that one rule of folding would change: the network has to stay what it was."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.other = kind, nn.ReLU(inplace=True)
        self.conv = StdConv2d(3, 4, 1) if kind == "standardised" else nn.Conv2d(3, 4, 1)
        self.norm = nn.BatchNorm2d(4, track_running_stats=kind != "no statistics")

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.conv(image)
        if self.kind == "two modules":
            return self.norm(x) + self.other(x.clone() + 0 * self.other(x))
        if self.kind == "a sum outside":
            return self.norm(x) + x
        if self.kind == "changed in place":
            return self.norm(torch.relu_(x))
        return self.norm(x) + (self.norm(torch.relu(x)) if self.kind == "one norm twice" else 0)


CASES = ["two modules", "a sum outside", "changed in place", "one norm twice", "standardised", "no statistics"]


@pytest.mark.parametrize("kind", CASES)
def test_what_cannot_be_folded_stays(kind):
    model = Case(kind).eval()
    if kind != "no statistics":
        settled(model).eval()
    image = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(fold_batch_norm(model)(image), model(image))


@pytest.mark.parametrize("index", [0, 1, 2])
def test_branches_become_one_convolution(index):
    model = settled(METHODS["barm"]().build(TaskPlan.parse("2-1", 4)[index], network_of()).build_model()).eval()
    folded = fold_batch_norm(model)
    assert norms(folded) == 0
    assert folded.classifier.merged[0].out_channels == 16 * (1 + index)
    image = torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        for a, b in zip(tensors(model(image)), tensors(folded(image)), strict=True):
            assert float((a - b).abs().max()) <= 1e-4 * float(a.abs().max())


def large_variance() -> nn.Module:
    """Batch norm that is not folded, as it follows a concatenation, on features whose variance is beyond 65504."""
    options = network_of(decoder="added_pool", activation="leaky_relu")
    model = settled(METHODS["finetune"]().build(TaskPlan.parse("2-1", 4)[2], options).build_model()).eval()
    neck = model.classifier.aspp
    nn.init.constant_(neck.norm[0].running_var, 1e6)
    with torch.no_grad():
        for conv in neck.convs:
            conv.weight.mul_(1e3)
    return model


def large_weights(index: int) -> nn.Module:
    """Batch norm of small features, whose deviation of 1e-3 makes weights of 3e5 when it is folded."""
    model = settled(METHODS["barm"]().build(TaskPlan.parse("2-1", 4)[index], network_of()).build_model()).eval()
    head = model.classifier
    with torch.no_grad():
        for tensor in (head.aspp.project[1].weight, head.aspp.project[1].bias):
            tensor.mul_(1e-4)
        head.head_pre[0].weight.mul_(1e4)
        head.head_pre[1].running_var.zero_()
    return model


@pytest.mark.parametrize(
    "make", [large_variance, partial(large_weights, 0), partial(large_weights, 2)], ids=["variance", "one", "merged"]
)
def test_half_precision_does_not_overflow(make):
    """A previous network in fp16 whose batch norm, or what folding makes of it, is beyond the largest fp16 number."""
    model, image = make(), torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        expected = model(image).logits
    rt = Runtime(RuntimeConfig(device="cpu", precision="32-true"))
    rt.precision = "16-mixed"  # which is for GPUs alone, since a processor is slow at it
    found = rt.constant(model)(image).logits
    assert float((found - expected).abs().max()) <= 2e-2 * float(expected.abs().max())
