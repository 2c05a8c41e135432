"""A network with folded batch norm computes what it did before."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from barm.engine.recipe import RuntimeConfig
from barm.engine.runtime import Runtime
from barm.labels import TaskPlan
from barm.methods import METHODS
from barm.models.folding import fold_batch_norm
from barm.models.network import NetworkConfig


def network_of(**options) -> NetworkConfig:
    return NetworkConfig(**{"backbone": "test_resnet", "channels": 16, "pretrained": False, **options})


def settled(model: nn.Module) -> nn.Module:
    """Batch norm with statistics, scales and shifts of its own."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low in ((module.weight, 0.5), (module.bias, -0.5), (module.running_mean, -0.5)):
                nn.init.uniform_(tensor, low, low + 1)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return model.eval()


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
    model = settled(method.build_model())
    norms = sum(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    image = torch.randn(2, 3, 65, 49)
    with torch.no_grad():
        before = tensors(model(image))
        assert fold_batch_norm(model) == norms - left
        after = tensors(model(image))
    for a, b in zip(before, after, strict=True):
        assert float((a - b).abs().max()) <= 1e-4 * float(a.abs().max())


@pytest.mark.parametrize("name", sorted(METHODS))
@pytest.mark.parametrize("index", [0, 2])
def test_constants_of_every_method(name, index):
    """The previous step's network as training sees it: same outputs, no gradient, the network itself untouched."""
    method = METHODS[name](name=name).build(TaskPlan.parse("2-1", 4)[index], network_of())
    model = settled(method.build_model())
    state = {k: v.clone() for k, v in model.state_dict().items()}
    image = torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        before = tensors(model(image))
    for precision, tolerance in (("32-true", 1e-4), ("bf16-mixed", 0.1)):
        rt = Runtime(RuntimeConfig(device="cpu", precision=precision))
        constant = rt.constant(model)
        assert constant.folded > 0
        for a, b in zip(before, tensors(constant(image)), strict=True):
            assert b.dtype == torch.float32
            assert not b.is_inference()
            assert float((a - b).abs().max()) <= tolerance * float(a.abs().max())
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


def test_a_convolution_with_two_takers_is_left_alone():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.other = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            x = self.conv(image)
            return self.norm(x) + self.other(x)

    assert fold_batch_norm(settled(Twice())) == 0
