"""Frozen batch norm inside the convolution before it: the same values and gradients, and the way back."""

from __future__ import annotations

import copy

import pytest
import torch
from statistics_of_norms import settled
from timm.layers.norm_act import BatchNormAct2d
from torch import nn

from barm.labels import TaskPlan
from barm.methods import METHODS
from barm.models.batch_norm import NormedConv, ordinary, refresh
from barm.models.frozen_norm import take_in_frozen_norms
from barm.models.segmenter import NetworkConfig

BACKBONES = ["test_resnet", "test_efficientnet", "deeplab_mobilenetv2"]


def frozen(model: nn.Module) -> nn.Module:
    """Batch norm with values of its own that do not train."""
    for module in settled(model).modules():
        if isinstance(module, nn.BatchNorm2d):
            module.requires_grad_(False)
    return model


def network_of(name: str, backbone: str = "test_resnet") -> tuple[object, nn.Module]:
    network = NetworkConfig(backbone=backbone, channels=16, pretrained=False, dropout=0)
    method = METHODS[name](name=name, freeze_bn=True).build(TaskPlan.parse("2-1", 4)[2], network)
    model = frozen(method.build_model())
    method.train_mode(model)
    return method, model


def outputs(model: nn.Module, image: torch.Tensor) -> list[torch.Tensor]:
    return [t for part in model(image) for t in (part if isinstance(part, tuple) else (part,))]


def gradients(model: nn.Module, image: torch.Tensor) -> dict[str, torch.Tensor]:
    """Of a sum in which every output counts otherwise."""
    sum((i + 1) * out.square().sum() for i, out in enumerate(outputs(model, image))).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


CASES = [(name, "test_resnet") for name in sorted(METHODS)] + [("barm", b) for b in BACKBONES[1:]]


@pytest.mark.parametrize(("name", "backbone"), CASES)
def test_values_and_gradients(name, backbone):
    _, model = network_of(name, backbone)
    merged, image = copy.deepcopy(model), torch.randn(2, 3, 65, 49)
    take_in_frozen_norms(merged)
    assert sum(isinstance(m, NormedConv) for m in merged.modules()) > 10
    for a, b in zip(outputs(model, image), outputs(merged, image), strict=True):
        assert float((a - b).abs().max()) <= 1e-5 * float(a.abs().max())
    expected, found = gradients(model, image), gradients(merged, image)
    assert expected.keys() == found.keys()
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    for key, gradient in expected.items():  # where one nearly vanishes, rounding is that of the sums which made it
        bound = 1e-4 * max(float(gradient.abs().max()), 1e-4 * largest)
        assert float((gradient - found[key]).abs().max()) <= bound, key


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_way_back(backbone):
    """Classes, names, tensors and results of a network that was never changed."""
    _, model = network_of("barm", backbone)
    classes, tensors = [type(m) for m in model.modules()], dict(model.state_dict(keep_vars=True))
    frozen = sum(isinstance(m, nn.modules.batchnorm._BatchNorm) and not m.training for m in model.modules())
    image = torch.randn(2, 3, 48, 48)
    before = outputs(model, image)
    take_in_frozen_norms(model)
    assert {type(m) for m in model.modules()} & {nn.BatchNorm2d, BatchNormAct2d} <= set(classes)
    assert list(model.state_dict()) == list(tensors)
    assert sum(isinstance(m, nn.modules.batchnorm._BatchNorm) and not m.training for m in model.modules()) == frozen
    again = ordinary(model)
    assert [type(m) for m in again.modules()] == classes
    assert all(again.state_dict(keep_vars=True)[name] is tensor for name, tensor in tensors.items())
    assert all(torch.equal(a, b) for a, b in zip(before, outputs(again, image), strict=True))
    assert any(isinstance(m, NormedConv) for m in model.modules())  # it goes on training


def test_another_state():
    """A resumed run loads batch norm that the network did not have."""
    _, model = network_of("barm")
    other, image = copy.deepcopy(model), torch.randn(2, 3, 48, 48)
    for module in other.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 3, 4)
    take_in_frozen_norms(model)
    model.load_state_dict(other.state_dict())
    refresh(model)
    for a, b in zip(outputs(other, image), outputs(model, image), strict=True):
        assert float((a - b).abs().max()) <= 1e-5 * float(a.abs().max())


class Shared(nn.Module):
    """A convolution whose result also goes elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.conv(image)
        return self.norm(x) + x


def test_what_would_be_another_network_stays():
    model = frozen(Shared()).eval()
    take_in_frozen_norms(model)
    assert type(model.conv) is nn.Conv2d
    assert type(model.norm) is nn.BatchNorm2d
