"""What trains of the backbone: all of it, blocks at rates of their own, nothing, or adapters."""

from __future__ import annotations

import json
import os
import signal

import pytest
import timm
import torch
from pydantic import ValidationError
from torch import nn

from barm.api import fit
from barm.batch import Batch
from barm.engine import capacity
from barm.engine.backbone import trained_groups
from barm.engine.checkpoint.directory import RunDirectory
from barm.engine.config import RuntimeConfig, StepRecipe
from barm.engine.monitor import Monitor
from barm.engine.runtime import Runtime, unwrap
from barm.engine.train import StepTrainer, calibrate
from barm.errors import Stopped
from barm.labels import TaskPlan
from barm.methods import METHODS
from barm.methods.groups import Rates
from barm.models.batch_norm import NormedConv
from barm.models.segmenter import NetworkConfig
from barm.reading import read_safetensors

RATES = Rates(new=0.1, aspp=0.05, old=0.02, backbone=0.01)
NETWORK = NetworkConfig(backbone="test_resnet", channels=16, pretrained=False)


def recipe_of(**options):
    return StepRecipe(**{"epochs": 1, "batch_size": 2, "lr": RATES, **options})


def trainer_of(way, index=0, name="barm", seed=1):
    method = METHODS[name](name=name).build(TaskPlan.parse("2-1", 4)[index], NETWORK)
    rt = Runtime(RuntimeConfig(device="cpu", precision="32-true"))
    torch.manual_seed(0)
    model, teacher = method.build_model(), None
    if index and method.uses_teacher:
        before = METHODS[name](name=name).build(TaskPlan.parse("2-1", 4)[index - 1], NETWORK).build_model()
        teacher = rt.constant(before)
    return StepTrainer(method, rt.place(model), teacher, recipe_of(backbone=way), 10, rt, seed)


def batches(number, first=0):
    """Images and labels with old and new classes."""
    for i in range(first, first + number):
        g = torch.Generator().manual_seed(i)
        label = torch.randint(0, 3, (2, 48, 48), generator=g)
        yield Batch(torch.randn(2, 3, 48, 48, generator=g), label, {})


def numbers(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def changed(before, after):
    return {name for name, value in after.items() if not torch.equal(value, before[name])}


@pytest.mark.parametrize("index", [0, 1])
def test_nothing_of_a_frozen_backbone_changes(index):
    trainer = trainer_of("frozen", index)
    before = numbers(trainer.network)
    for batch in batches(3):
        trainer.train_mode()
        trainer.update(batch)
    found = changed(before, numbers(trainer.network))
    assert not [name for name in found if name.startswith("backbone.")]
    assert any(name.startswith("classifier.head") for name in found)
    assert any(name.endswith("running_mean") for name in found) == (index == 0)
    features = unwrap(trainer.model).backbone(next(batches(1)).image)
    assert all(f.grad_fn is None and not f.requires_grad for f in features)
    assert any(isinstance(m, NormedConv) for m in unwrap(trainer.model).backbone.modules())


@pytest.mark.others("dft", "finetune", "ilt", "joint", "lwf")
@pytest.mark.parametrize("way", ["frozen", "lora"])
@pytest.mark.parametrize("name", [name for name in METHODS if name != "segacil"])  # whose later steps train nothing
def test_every_method_trains_so(name, way):
    if way == "lora":
        pytest.importorskip("peft")
    trainer = trainer_of(way, 1, name)
    if trainer.teacher is not None and trainer.method.calibrates:
        calibrate(trainer.method, trainer.teacher, batches(1), trainer.rt)
    values = [trainer.update(batch).values for batch in batches(2)]
    assert all(torch.isfinite(torch.tensor(v["loss"])) for v in values)
    assert trainer.skipped == 0


@pytest.mark.parametrize("index", [0, 1])
def test_adapters_train_and_the_weights_below_them_do_not(index):
    pytest.importorskip("peft")
    trainer, plain = trainer_of("lora", index), trainer_of("trained", index)
    batch = next(batches(1))
    assert torch.equal(*(t.network.eval()(batch.image)[0][0] for t in (trainer, plain)))
    before, merged = numbers(unwrap(trainer.model)), numbers(trainer.network)
    for batch in batches(3):
        trainer.train_mode()
        trainer.update(batch)
    found = {name for name in changed(before, numbers(unwrap(trainer.model))) if name.startswith("backbone.")}
    assert found
    assert all("lora_" in name for name in found)
    left = numbers(trainer.network)
    assert list(left) == list(numbers(plain.network))
    assert any(name.startswith("backbone.") for name in changed(merged, left))
    model = unwrap(trainer.model).eval()
    ours, theirs = trainer.network.eval()(batch.image)[0][0], model(batch.image)[0][0]
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * float(theirs.abs().max()))


class Bare(nn.Module):
    """A backbone with a head."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.backbone = timm.create_model(name, pretrained=False, features_only=True, out_indices=(-1,))
        self.classifier = nn.Conv2d(4, 2, 1)


@pytest.mark.parametrize(("name", "blocks"), [("resnet18", 9), ("convnext_atto", 13), ("vit_tiny_patch16_224", 13)])
def test_rates_fall_with_the_depth(name, blocks):
    model = Bare(name)

    class Groups:
        network = NetworkConfig(backbone=name, channels=16, pretrained=False)

        def frozen(self, model):
            return []

        def param_groups(self, model, rates):
            pairs = [("head", model.classifier, rates.new), ("backbone", model.backbone, rates.backbone)]
            return [{"name": n, "params": list(m.parameters()), "lr": lr} for n, m, lr in pairs]

    groups = trained_groups(Groups(), model, recipe_of(depth_decay=0.5))
    assert [g["name"] for g in groups] == ["head", *(f"backbone.{i}" for i in range(blocks))]
    assert [g["lr"] for g in groups] == [0.1, *(0.01 * 0.5**i for i in range(blocks))]
    rates = {id(p): g["lr"] for g in groups for p in g["params"]}
    assert len(rates) == sum(len(g["params"]) for g in groups) == len(list(model.parameters()))
    per_parameter = [rates[id(p)] for p in model.backbone.parameters()]
    assert per_parameter == sorted(per_parameter)


def test_adapters_have_the_rate_of_their_depth():
    pytest.importorskip("peft")
    method = METHODS["barm"](name="barm").build(TaskPlan.parse("2-1", 4)[0], NETWORK)
    model = method.build_model()
    groups = trained_groups(method, model, recipe_of(backbone="lora", depth_decay=0.5))
    rates = {id(p): g["lr"] for g in groups for p in g["params"]}
    names = {n: rates[id(p)] for n, p in model.backbone.named_parameters() if id(p) in rates}
    assert all("lora_" in name for name in names)
    assert names["layer4.0.conv1.lora_A.default.weight"] == 0.01
    assert names["layer3.0.conv1.lora_B.default.weight"] == 0.005
    assert names["conv1.0.lora_A.default.weight"] == 0.01 * 0.5**4


def test_what_a_method_freezes_gets_no_adapter():
    pytest.importorskip("peft")
    method = METHODS["ssul"](name="ssul").build(TaskPlan.parse("2-1", 4)[1], NETWORK)
    model = method.build_model()
    trained_groups(method, model, recipe_of(backbone="lora"))
    assert not [name for name in model.state_dict() if "lora_" in name]


@pytest.mark.parametrize("way", ["frozen", "lora"])
def test_a_restored_step_ends_in_the_same_bits(way):
    pytest.importorskip("peft")
    whole, first, second = (trainer_of(way, 1) for _ in range(3))
    for batch in batches(4):
        whole.update(batch)
    for batch in batches(2):
        first.update(batch)
    state = {**first.state_dict(), "model": numbers(unwrap(first.model))}
    assert second.misfit(state) is None
    second.load_state_dict(state)
    for batch in batches(2, first=2):
        second.update(batch)
    assert not changed(numbers(whole.network), numbers(second.network))
    other = trainer_of("lora" if way == "frozen" else "frozen", 1)
    assert other.misfit(state) == "the optimiser's groups are others"


def test_a_stopped_run_with_adapters_resumes_to_the_same_weights(tiny, tmp_path, monkeypatch):
    pytest.importorskip("peft")
    config = tiny("barm", "3-1", "base.epochs=2", "base.backbone=lora", "base.depth_decay=0.9", "runtime.save_every=3")
    fit(config, out=tmp_path / "whole", steps=[0], quiet=True)
    show = Monitor.progress

    def stop(self, iteration, *rest):
        show(self, iteration, *rest)
        if iteration == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Monitor, "progress", stop)
        with pytest.raises(Stopped):
            fit(config, out=tmp_path / "broken", steps=[0], quiet=True)
    kept = RunDirectory(tmp_path / "broken").load_partial(0)["model"]
    assert any("lora_A" in name for name in kept)
    fit(config, out=tmp_path / "broken", steps=[0], resume=True, quiet=True)
    whole, broken = ((tmp_path / run / "step00/model.safetensors").read_bytes() for run in ("whole", "broken"))
    assert whole == broken


def test_a_run_stores_ordinary_networks(tiny, tmp_path):
    pytest.importorskip("peft")
    options = ("increment.backbone=lora", "increment.lora.rank=2", "base.backbone=frozen", "base.depth_decay=0.9")
    fit(tiny("barm", "3-1", *options), out=tmp_path / "run", quiet=True)
    fit(tiny("barm", "3-1"), out=tmp_path / "plain", quiet=True)
    for step in ("step00", "step01"):
        ours, theirs = (read_safetensors(tmp_path / run / step / "model.safetensors") for run in ("run", "plain"))
        assert sorted(ours) == sorted(theirs)
    assert json.loads((tmp_path / "run/step01/metrics.json").read_text())["miou"]["all"] is not None


def test_the_forecast_of_memory_knows_what_is_kept(tiny):
    pytest.importorskip("peft")
    key = capacity._key(tiny("barm"))
    needs = {
        b: capacity._training_need(*key, False, json.dumps({"backbone": b})) for b in ("trained", "frozen", "lora")
    }
    assert needs["frozen"].once < needs["lora"].once < needs["trained"].once
    assert needs["frozen"].per_pixel < 0.8 * needs["trained"].per_pixel


def test_settings_that_mean_nothing():
    for wrong in ({"backbone": "half"}, {"depth_decay": 0.0}, {"depth_decay": 1.5}, {"lora": {"rank": 0}}):
        with pytest.raises(ValidationError):
            recipe_of(**wrong)
    assert recipe_of().lora is None
    assert recipe_of(backbone="lora").lora.rank == 8
