"""A constant network computes what the plain one does, with no operation more, on every kind of convolution."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from barm.engine import runtime
from barm.engine.config import RuntimeConfig
from barm.engine.runtime import Runtime, constant_type
from barm.labels import Step
from barm.methods import METHODS
from barm.models.segmenter import NetworkConfig

KINDS = (
    "test_resnet",
    "test_efficientnet",
    "tf_mobilenetv3_small_minimal_100",
    "test_convnext",
    "regnetx_002",
)
FREE = {"to", "_to_copy"}  # the type of its input and of its output
SIDE = 81  # no multiple of 64: sizes that are not those of folding's example


class Counted(TorchDispatchMode):
    """Operations by name, of convolutions also kind and type."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name == "conv2d":
            x, weight, groups = args[0], args[1], (args[6] if len(args) > 6 else 1)
            kind = "dense" if groups == 1 else "depthwise" if groups == x.shape[1] else "grouped"
            name = f"{name} {kind} {tuple(weight.shape[2:])} {weight.dtype}"
        self.calls[name.rstrip("_")] += 1
        return func(*args, **(kwargs or {}))


def model_of(backbone: str, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    network = NetworkConfig(backbone=backbone, channels=16, pretrained=False, **options)
    model = METHODS["barm"]().build(Step(2, ((1, 2), (3,), (4,))), network).build_model()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low in ((module.weight, 0.5), (module.bias, -0.5), (module.running_mean, -0.5)):
                nn.init.uniform_(tensor, low, low + 1)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return model.eval().requires_grad_(False)


def leaves(out: Any) -> list[torch.Tensor]:
    return [t for part in out for t in (part if isinstance(part, tuple) else (part,))]


@pytest.fixture(params=["32-true", "bf16-mixed"])
def rt(request, monkeypatch):
    """Both types, also where a processor would not choose bf16."""
    monkeypatch.setattr(runtime, "_convolves_bf16", lambda: True)
    return Runtime(RuntimeConfig(device="cpu", precision=request.param))


@pytest.mark.parametrize("backbone", KINDS)
def test_no_operation_more(backbone, rt):
    """What makes it never slower: the plain network's operations under autocast, and fewer of them."""
    model = model_of(backbone)
    constant, placed = rt.constant(model), rt.place(copy.deepcopy(model))
    image = rt.image(torch.randn(2, 3, SIDE, SIDE))
    with Counted() as ours:
        constant(image)
    with torch.inference_mode(), rt.fabric.autocast(), Counted() as theirs:
        placed(image)
    more = {n: c for n, c in ours.calls.items() if c > theirs.calls[n] and n not in FREE}
    assert more == {}
    assert sum(c for n, c in ours.calls.items() if n.startswith("conv2d")) > 10
    assert not any("batch_norm" in n for n in ours.calls)


@pytest.mark.parametrize("decoder", ["v3", "v3plus"])
@pytest.mark.parametrize("backbone", KINDS)
def test_the_same_function(backbone, decoder, rt):
    """At several sizes, one after the other; fp32 to 1e-4 of the largest value."""
    model = model_of(backbone, decoder=decoder)
    constant = rt.constant(model)
    for size in ((2, 3, SIDE, SIDE), (1, 3, 64, 96)):
        image = torch.randn(*size)
        with torch.inference_mode():
            expected = leaves(model(image))
        for a, b in zip(leaves(constant(image)), expected, strict=True):
            assert a.dtype == torch.float32
            tolerance = 1e-4 if constant.dtype == torch.float32 else 0.1
            assert float((a - b).abs().max()) <= tolerance * float(b.abs().max())


@pytest.mark.parametrize(
    ("precision", "device", "convolves", "expected"),
    [
        ("bf16-mixed", "cpu", True, torch.bfloat16),
        ("bf16-mixed", "cpu", False, torch.float32),
        ("bf16-mixed", "cuda", False, torch.bfloat16),
        ("16-mixed", "cuda", False, torch.float16),
        ("32-true", "cpu", True, torch.float32),
    ],
)
def test_the_type_it_computes_in(precision, device, convolves, expected, monkeypatch):
    monkeypatch.setattr(runtime, "_convolves_bf16", lambda: convolves)
    assert constant_type(precision, torch.device(device)) == expected


def test_a_processor_without_bf16_convolutions(monkeypatch):
    """bf16-mixed is asked for, oneDNN has none: the constant is exact."""
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False, raising=False)
    model, image = model_of("test_efficientnet"), torch.randn(1, 3, 64, 64)
    constant = Runtime(RuntimeConfig(device="cpu", precision="bf16-mixed")).constant(model)
    assert {p.dtype for p in constant.network.parameters()} == {torch.float32}
    with torch.inference_mode():
        expected = leaves(model(image))
    for a, b in zip(leaves(constant(image)), expected, strict=True):
        assert float((a - b).abs().max()) <= 1e-4 * float(b.abs().max())
