"""Batch norm that shares its statistics between GPUs: what is evaluated, stored and handed on is an ordinary network.

No GPU is needed to see it: alone, a converted network trains as one that was not converted.
"""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from timm.layers.norm_act import BatchNormAct2d, SyncBatchNormAct, convert_sync_batchnorm
from torch import nn

from barm.api import evaluate, fit
from barm.engine.checkpoint.directory import COUNTS, RunDirectory
from barm.engine.config import RuntimeConfig
from barm.engine.runtime import Runtime
from barm.errors import UserError
from barm.extension.run import extend
from barm.labels import TaskPlan
from barm.methods import METHODS
from barm.models.batch_norm import ordinary, synchronised
from barm.models.segmenter import NetworkConfig
from barm.predict.model import load

BACKBONES = ("test_resnet", "test_efficientnet")  # nn.BatchNorm2d; timm's BatchNormAct2d
RESIDUAL = ("plop", "plop-ewf", "rcil")  # methods that want a residual network


def network_of(name: str, backbone: str = "test_resnet", index: int = 1) -> nn.Module:
    network = NetworkConfig(backbone=backbone, channels=16, pretrained=False)
    return METHODS[name](name=name).build(TaskPlan.parse("2-1", 4)[index], network).build_model()


def settled(network: nn.Module) -> nn.Module:
    """Statistics far from 0 and 1, of a network in evaluation mode."""
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return network.eval()


def leaves(out) -> list[torch.Tensor]:
    return [t for part in out for t in (part if isinstance(part, tuple) else (part,))]


@pytest.mark.others("dft", "finetune", "ilt", "joint", "lwf", "plop")
@pytest.mark.parametrize(
    "convert", [convert_sync_batchnorm, nn.SyncBatchNorm.convert_sync_batchnorm], ids=["timm", "torch"]
)
@pytest.mark.parametrize("name", sorted(METHODS))
def test_constants_of_converted_networks(name, convert):
    """torch's converter is asked about torch's batch norm alone; of timm's it loses the activation."""
    rt = Runtime(RuntimeConfig(device="cpu", precision="32-true"))
    both = convert is convert_sync_batchnorm and name not in RESIDUAL
    for backbone in BACKBONES if both else BACKBONES[:1]:
        network = settled(network_of(name, backbone))
        image = torch.randn(2, 3, 48, 48)
        expected = leaves(rt.constant(copy.deepcopy(network))(image))
        found = leaves(rt.constant(convert(network))(image))
        for a, b in zip(expected, found, strict=True):
            assert float((a - b).abs().max()) <= 1e-6 * float(a.abs().max())


@pytest.mark.parametrize("backbone", BACKBONES)
def test_there_and_back(backbone):
    """The same tensors, classes, modes and results; the shared network goes on training."""
    network = settled(network_of("barm", backbone))
    image, classes = torch.randn(2, 3, 48, 48), [type(m) for m in network.modules()]
    before, tensors = leaves(network(image)), dict(network.state_dict(keep_vars=True))
    shared = synchronised(network)
    assert any(isinstance(m, nn.SyncBatchNorm) for m in shared.modules())
    again = ordinary(shared)
    assert [type(m) for m in again.modules()] == classes
    assert any(isinstance(m, nn.SyncBatchNorm) for m in shared.modules())
    assert all(again.state_dict(keep_vars=True)[name] is tensor for name, tensor in tensors.items())
    assert not any(m.training for m in again.modules())
    assert all(torch.equal(a, b) for a, b in zip(before, leaves(again(image)), strict=True))
    assert ordinary(again) is again


def test_timm_s_activation_survives():
    plain = timm.create_model("efficientnet_b0", features_only=True).eval()
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before = plain(image)
        assert any(isinstance(m, BatchNormAct2d) for m in plain.modules())
        shared = synchronised(plain)
        assert any(isinstance(m, SyncBatchNormAct) for m in shared.modules())
        for a, b in zip(before, shared(image), strict=True):
            assert torch.equal(a, b)


class Odd(nn.BatchNorm2d):
    """Batch norm with a forward of its own, which no converter knows."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input).abs()


@pytest.mark.parametrize(
    "norm", [Odd(4), nn.BatchNorm1d(4), timm.layers.EvoNorm2dB0(4)], ids=lambda n: type(n).__name__
)
def test_what_cannot_be_shared_is_refused(norm):
    with pytest.raises(UserError, match=rf"^1 is a {type(norm).__name__}, whose statistics cannot be shared"):
        synchronised(nn.Sequential(nn.Conv2d(3, 4, 1), norm))


def test_statistics_of_no_batch_are_let_be():
    frozen = nn.Sequential(timm.layers.FrozenBatchNormAct2d(4), nn.InstanceNorm2d(4, track_running_stats=True))
    assert synchronised(frozen)[0] is frozen[0]


@pytest.mark.slow
@pytest.mark.others("dft", "dkd", "finetune", "ilt", "joint", "lwf", "plop", "ssul")
@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_run_is_the_same(name, tiny, tiny_settings, shapes_voc, tmp_path, monkeypatch):
    """Trained, evaluated, stored, resumed and extended, with batch norm that trains at every step."""
    states, counts = [], []
    backbone = f"model.backbone={'test_resnet' if name in RESIDUAL else 'test_efficientnet'}"
    overrides = ["method.freeze_bn=false", *(s for s in tiny_settings if s.startswith(("increment.", "evaluation.")))]
    config = tiny(name, "3-1", "method.freeze_bn=false", backbone)
    for shares in (False, True):
        monkeypatch.setattr(Runtime, "shares_statistics", property(lambda _, s=shares: s))
        out = tmp_path / str(shares)
        fit(config, out=out, steps=[0], quiet=True)
        assert not any(isinstance(m, nn.SyncBatchNorm) for m in load(out)._network.network.modules())
        fit(config, out=out, resume=True, quiet=True)
        steps = [(RunDirectory(out), 0), (RunDirectory(out), 1)]
        if name != "joint" and config.method.memory is None:  # those want old images
            more, new = out / "more", [load(out).class_names[-1]]
            extend(out, shapes_voc, new, step=0, out=more, overrides=overrides, quiet=True)
            steps.append((RunDirectory(more), 1))
        states.append([directory.load_model_state(i) for directory, i in steps])
        counts.append([directory.read(i, COUNTS) for directory, i in steps])
    assert counts[0] == counts[1]
    for plain, shared in zip(*states, strict=True):
        for key, tensor in plain.items():
            torch.testing.assert_close(shared[key], tensor, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
@pytest.mark.others("dft", "finetune", "ilt", "joint", "lwf", "plop", "rcil")
@pytest.mark.parametrize("name", sorted(METHODS))
def test_one_network_one_number(name, tiny, tmp_path, monkeypatch):
    """What a run stored is what `barm evaluate` finds, in bf16 too, whatever trained the network."""
    monkeypatch.setattr(Runtime, "shares_statistics", property(lambda _: True))
    config = tiny(name, "3-1", "method.freeze_bn=false", "runtime.precision=bf16-mixed")
    stored = fit(config, out=tmp_path / "run", quiet=True)
    assert evaluate(tmp_path / "run", quiet=True)["miou"] == stored[-1]["miou"]
    assert evaluate(tmp_path / "run", 0, quiet=True)["miou"] == stored[0]["miou"]


def test_a_frozen_part_shares_no_statistics():
    """It may also hold a normalisation that could not be shared."""
    network = nn.ModuleDict(
        {
            "backbone": nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.BatchNorm1d(4)),
            "classifier": nn.Sequential(nn.Conv2d(4, 2, 1), nn.BatchNorm2d(2)),
        }
    )
    shared = synchronised(network, network["backbone"])
    assert [type(m) for m in shared["backbone"]] == [nn.Conv2d, nn.BatchNorm2d, nn.BatchNorm1d]
    assert type(shared["classifier"][1]) is nn.SyncBatchNorm
