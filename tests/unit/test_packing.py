"""A packed network computes what it did before, also on batches of other sizes; what cannot be packed stays."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from barm.engine.recipe import RuntimeConfig
from barm.engine.runtime import Runtime
from barm.labels import TaskPlan
from barm.methods import METHODS
from barm.models import packing
from barm.models.network import NetworkConfig
from barm.models.packing import PackedConv, pack


def constant_of(name: str, precision: str, index: int = 2, **options):
    network = NetworkConfig(**{"backbone": "test_resnet", "channels": 16, "pretrained": False, **options})
    model = METHODS[name](name=name).build(TaskPlan.parse("2-1", 4)[index], network).build_model().eval()
    return Runtime(RuntimeConfig(device="cpu", precision=precision)).constant(model)


def leaves(out) -> list[torch.Tensor]:
    return [t for part in out for t in (part if isinstance(part, tuple) else (part,))]


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("name", ["barm", "plop", "dkd", "ssul"])
def test_the_same_function(name, precision):
    constant = constant_of(name, precision)
    plain = constant.network
    constant(torch.randn(2, 3, 64, 64))
    assert sum(isinstance(m, PackedConv) for m in constant.network.modules()) > 5
    assert sum(isinstance(m, nn.ReLU) for m in constant.network.modules()) < sum(
        isinstance(m, nn.ReLU) for m in plain.modules()
    )
    for size in ((2, 3, 64, 64), (1, 3, 64, 64), (3, 3, 47, 80)):
        image = torch.randn(*size)
        packed = leaves(constant(image))
        with torch.no_grad():
            expected = leaves(plain(constant.rt.image(image).to(constant.dtype)))
        for a, b in zip(packed, expected, strict=True):
            tolerance = packing.TOLERANCE[constant.dtype]
            assert float((a - b.float()).abs().max()) <= tolerance * float(b.abs().max())


class Shared(nn.Module):
    """One ReLU behind two convolutions, and one behind a sum."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.relu = kind, nn.ReLU(inplace=kind != "beside")
        self.a, self.b = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.kind == "twice":
            return self.relu(self.b(self.relu(self.a(x))))
        y = self.a(x)
        if self.kind == "sum":
            y += x
            return self.relu(y)
        return self.relu(y) + y


@pytest.mark.parametrize("kind", ["twice", "sum", "beside"])
def test_activations_that_belong_to_others_stay(kind):
    image = torch.randn(2, 3, 8, 8)
    model = Shared(kind).eval()
    with torch.no_grad():
        assert torch.allclose(pack(model, image)(image), model(image), atol=1e-5)


def test_another_version_of_torch(monkeypatch):
    """Without these functions the network stays as it is."""
    monkeypatch.delattr(torch._C._nn, "mkldnn_reorder_conv2d_weight")
    constant = constant_of("barm", "32-true")
    plain = constant.network
    constant(torch.randn(2, 3, 64, 64))
    assert constant.network is plain
