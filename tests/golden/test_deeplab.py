"""The networks of the public code base and of SSUL by their published names: tensors, outputs, what trains."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from barm.engine.config import RuntimeConfig, StepRecipe
from barm.engine.runtime import Runtime
from barm.engine.train import StepTrainer
from barm.labels import Step
from barm.methods.finetune import FineTuneConfig
from barm.methods.groups import Rates
from barm.methods.ssul import SSULConfig
from barm.models.segmenter import NetworkConfig
from barm.ops.upsampled import upsample
from barm.weights.published_names import own_names, published_names

HERE = Path(__file__).parent / "data/deeplab"
FORWARDS = sorted(p.stem for p in HERE.glob("forward_*.npz"))


def listed(name: str, key: str) -> list[dict]:
    return json.loads((HERE / f"{name}.json").read_text("utf-8"))[key]


LISTS = [(name, model) for name in ("base", "ssul") for model in listed(f"state_keys_{name}", "models")]
TRAINABLE = listed("trainable", "cases")


def step_of(sizes: list[int]) -> Step:
    ids = iter(range(1, 255))
    return Step(len(sizes) - 1, tuple(tuple(next(ids) for _ in range(size)) for size in sizes))


def build(model: str, classes: int | list[int], **options):
    """The method with its network; heads for the unknown and background are not counted in the groups."""
    network = NetworkConfig.from_name(model, pretrained=False, **options)
    if isinstance(classes, int):
        return FineTuneConfig().build(step_of([classes - 1]), network)
    return SSULConfig().build(step_of(classes[2:]), network)


def names_of(model: nn.Module, name: str, classes: int | list[int]) -> dict[str, str]:
    return published_names(model.state_dict(), single_head=isinstance(classes, int), v3plus="v3plus" in name)


@pytest.mark.parametrize(("layout", "about"), LISTS, ids=[f"{n}-{m['model']}" for n, m in LISTS])
def test_tensor_names_and_shapes(layout, about):
    model = build(about["model"], about["classes"], separable=about["separable"]).build_model()
    names = names_of(model, about["model"], about["classes"])
    found = [[names[k], list(v.shape)] for k, v in model.state_dict().items()]
    assert found == about["entries"]
    assert sum(p.numel() for p in model.parameters()) == about["n_params"]


def filled(model: nn.Module, names: dict[str, str], seed: int) -> dict[str, torch.Tensor]:
    """A published state dict with the weights of the golden README's rule."""
    state, rng, result = model.state_dict(), np.random.RandomState(seed), {}
    for published, own in sorted((p, o) for o, p in names.items()):
        shape = tuple(state[own].shape)
        if published.endswith("num_batches_tracked"):
            result[published] = torch.zeros(())
            continue
        z = rng.standard_normal(shape)
        if z.ndim == 4:
            z = z * np.sqrt(2 / np.prod(shape[1:]))
        elif published.endswith("running_var"):
            z = 1 + 0.5 * np.abs(z)
        elif published.endswith("weight"):
            z = 0.8 + 0.1 * z
        else:
            z = 0.1 * z
        result[published] = torch.from_numpy(np.asarray(z, np.float32))
    return result


@pytest.mark.slow
@pytest.mark.parametrize("file", FORWARDS)
def test_forward(file, golden):
    g = golden(f"deeplab/{file}.npz")
    about = json.loads(str(g["args"]))
    options = {"output_stride": about["output_stride"], "separable": about["separable"]}
    model = build(about["model"], about["classes"], **options).build_model().eval()
    assert len(model.state_dict()) == about["n_keys"]
    published = filled(model, names_of(model, about["model"], about["classes"]), about["fill_seed"])
    model.load_state_dict(own_names(published, model.state_dict()))
    image = torch.from_numpy(g["image"])
    with torch.no_grad():
        features, out = model.backbone(image), model(image)
    assert_within(out.logits, g["logits_low"])
    assert_within(upsample(out.logits, (image.shape[2], image.shape[3])), g["logits"])
    assert tuple(features[-1].shape) == tuple(g["feat_out_shape"])
    assert_within(features[-1][0, :64, 0, 0], g["feat_out_first"])
    assert float(features[-1].double().mean()) == pytest.approx(float(g["feat_out_mean"]), rel=1e-4)
    if "feat_low_first" in g:
        assert_within(features[0][0, :64, 0, 0], g["feat_low_first"])


def assert_within(actual, expected) -> None:
    """1e-4 of the largest entry, as the golden README says."""
    assert float(np.abs(actual.numpy() - expected).max()) <= 1e-4 * float(np.abs(expected).max())


@pytest.mark.parametrize("case", TRAINABLE, ids=[f"{c['model']}-{c['step']}" for c in TRAINABLE])
def test_what_trains(case):
    method = build(case["model"], case["heads"])
    model = method.build_model()
    lr = case["lr"]
    base = {"new": 0.01, "aspp": 0.01, "old": 0.01, "backbone": 0.001}
    rates = Rates(**({"new": lr, "aspp": lr, "old": lr * 1e-4, "backbone": lr / 10} if case["step"] else base))
    rt = Runtime(RuntimeConfig(device="cpu", precision="32-true"))
    recipe = StepRecipe(epochs=1, batch_size=2, lr=rates)
    trainer = StepTrainer(method, model, None, recipe, 10, rt, seed=1)

    rate = {id(p): g["lr"] for g in trainer.optimizer.param_groups for p in g["params"]}
    names = names_of(model, case["model"], case["heads"])
    trained = {names[n]: rate[id(p)] for n, p in model.named_parameters() if p.requires_grad}
    assert len(trained) == case["n_requires_grad"]
    if case["step"]:
        assert sorted(trained) == sorted(case["requires_grad"])
    for group in case["groups"]:
        for name in (group["first"], group["last"]):
            assert trained[name] == pytest.approx(group["lr"])
    options = trainer.optimizer.param_groups[0]
    assert all(options[k] == case["groups"][0][k] for k in ("momentum", "weight_decay", "nesterov"))

    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == case["bn_total"]
    assert sum(not m.training for m in norms) == case["bn_in_eval_mode"]
    assert sum(m.training for m in model.modules() if isinstance(m, nn.Dropout)) == case["dropout_in_train_mode"]
    assert sorted({m.momentum for m in norms}) == case["bn_momenta"]
