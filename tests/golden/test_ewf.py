"""EWF against numbers of the official implementation (golden/ewf), through the functions and the method that train."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from arrays import named
from torch import nn
from torch.nn import functional as F

from barm.engine.backbone import trained_groups
from barm.engine.config import StepRecipe
from barm.labels import Step, TaskPlan
from barm.methods import METHODS
from barm.methods.fusion import change_threshold, fuse, fusion_share
from barm.methods.groups import Rates
from barm.models.segmenter import NetworkConfig

files = partial(named, "ewf", "_a*")


def state(g, prefix: str) -> dict[str, torch.Tensor]:
    """Tensors whose names in the file begin with `prefix`."""
    return {k[len(prefix) + 1 :]: torch.from_numpy(g[k]) for k in g if k.startswith(f"{prefix}.")}


def assert_close(actual, expected, double: float = 1e-12) -> None:
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        bound = double if tensor.dtype == torch.float64 else 1e-6
        assert actual[name].dtype == tensor.dtype
        torch.testing.assert_close(actual[name], tensor, rtol=bound, atol=bound)


def groups_of(sizes) -> tuple[tuple[int, ...], ...]:
    """Classes of the steps whose classifiers have these numbers of channels, background in the first."""
    ends = np.cumsum(sizes)
    return tuple(tuple(range(1 if i == 0 else int(ends[i - 1]), int(end))) for i, end in enumerate(ends))


@pytest.mark.parametrize("file", files("alphas"))
def test_shares_of_all_published_tasks(file, golden):
    g = golden(f"ewf/{file}.npz")
    tasks = [name.removeprefix("classes_") for name in g if name.startswith("classes_")]
    assert tasks
    for task in tasks:
        sizes = [int(n) for n in g[f"classes_{task}"]]
        shares = [fusion_share(n, sum(sizes[: i + 1])) for i, n in enumerate(sizes) if i]
        np.testing.assert_allclose(shares, g[f"expected_alphas_{task}"], rtol=1e-12)


@pytest.mark.parametrize("file", [f for f in files("fusion") if "threshold" not in f])
def test_one_fusion(file, golden):
    g = golden(f"ewf/{file}.npz")
    share = fusion_share(int(g["n_new_classes"]), int(g["n_old_classes"] + g["n_new_classes"]))
    assert share == pytest.approx(float(g["expected_alpha"]), rel=1e-12)
    new = state(g, "new")
    before = {name: tensor.clone() for name, tensor in new.items()}
    assert_close(fuse(state(g, "old"), new, share), state(g, "expected"))
    assert all(torch.equal(new[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize("file", files("fusion_threshold"))
def test_fusion_of_what_changed_most(file, golden):
    g = golden(f"ewf/{file}.npz")
    old, new = state(g, "old"), state(g, "new")
    assert float(change_threshold(old, new, 0.45)) == pytest.approx(float(g["expected_threshold"]), rel=1e-6)
    assert_close(fuse(old, new, float(g["expected_alpha"]), largest=0.45), state(g, "expected"))


@pytest.mark.parametrize("file", files("chain"))
def test_every_step_starts_from_what_was_stored(file, golden):
    g = golden(f"ewf/{file}.npz")
    stored, sizes = state(g, "state0"), [int(n) for n in g["classes_per_step"]]
    for step in range(1, len(sizes)):
        stored = fuse(stored, state(g, f"trained{step}"), fusion_share(sizes[step], sum(sizes[: step + 1])))
        assert_close(stored, state(g, f"expected{step}"))


class Classifier(nn.Module):
    """The growing classifier alone, under the names of our networks."""

    def __init__(self, width: int, sizes) -> None:
        super().__init__()
        self.classifier = nn.Module()
        self.classifier.head_pre, self.classifier.aspp = nn.Identity(), nn.Identity()
        self.classifier.head = nn.ModuleList(nn.Conv2d(width, int(n), 1) for n in sizes)
        self.backbone = nn.Identity()
        self.double()

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return torch.cat([head(features) for head in self.classifier.head], dim=1)


def ours(tensors):
    return {name.replace("cls.", "classifier.head."): tensor for name, tensor in tensors.items()}


@pytest.mark.parametrize("file", files("classifier"))
@pytest.mark.parametrize("name", ["mib-ewf", "plop-ewf"])
def test_the_classifier_from_its_start_to_its_fusion(name, file, golden):
    g = golden(f"ewf/{file}.npz")
    sizes = [int(n) for n in g["classes_per_step"]]
    step = Step(len(sizes) - 1, groups_of(sizes))
    method = METHODS[name]().build(step, NetworkConfig())
    previous, model = (Classifier(g["features"].shape[1], s) for s in (sizes[:-1], sizes))
    previous.load_state_dict(ours(state(g, "old")))
    method.init_from(model, previous)
    assert_close(dict(model.state_dict()), ours(state(g, "expected_start")), 1e-6)

    lr, decay, momentum = (float(g[k]) for k in ("lr", "weight_decay", "momentum"))
    rates = Rates(new=lr, aspp=lr, old=lr, backbone=lr)
    groups = trained_groups(method, model, StepRecipe(epochs=1, batch_size=4, lr=rates))
    sgd = torch.optim.SGD([dict(x) for x in groups], lr=lr, momentum=momentum, nesterov=True, weight_decay=decay)
    features, labels = torch.from_numpy(g["features"]), torch.from_numpy(g["labels"])
    for _ in range(int(g["n_updates"])):
        sgd.zero_grad()
        F.cross_entropy(model(features), labels).backward()
        sgd.step()
    assert_close(dict(model.state_dict()), ours(state(g, "expected_trained")), 1e-6)
    method.finish(model, previous)
    assert_close(dict(model.state_dict()), ours(state(g, "expected_fused")), 1e-6)


@pytest.mark.parametrize("file", files("network"))
def test_the_output_is_not_the_average_of_the_outputs(file, golden):
    g = golden(f"ewf/{file}.npz")
    share, image = float(g["expected_alpha"]), torch.from_numpy(g["input"])

    def logits(t):
        x = F.conv2d(image, t["body.conv.weight"])
        norm = [t[f"body.norm.{n}"].view(1, -1, 1, 1) for n in ("weight", "bias", "running_mean", "running_var")]
        x = (norm[0].abs() + g["norm_eps"]) * (x - norm[2]) / (norm[3] + g["norm_eps"]).sqrt() + norm[1]
        x = F.conv2d(F.leaky_relu(x, float(g["slope"])), t["head.conv.weight"])
        heads = sorted({n.split(".")[1] for n in t if n.startswith("cls.")})
        return torch.cat([F.conv2d(x, t[f"cls.{h}.weight"], t[f"cls.{h}.bias"]) for h in heads], dim=1)

    fused = fuse(state(g, "old"), state(g, "new"), share)
    torch.testing.assert_close(logits(fused), torch.from_numpy(g["expected_logits_fused"]), rtol=1e-10, atol=1e-10)


def test_whole_numbers_are_taken_from_the_newer_state():
    old, new = ({"n": torch.tensor(n), "w": torch.tensor([w])} for n, w in ((3, 1.0), (8, 3.0)))
    fused = fuse(old, new, 0.5)
    assert (fused["n"].item(), fused["n"].dtype, fused["w"].item()) == (8, torch.int64, 2.0)


@pytest.mark.parametrize("name", ["barm", "mib", "lwf", "dkd", "ssul"])
def test_any_method_can_be_fused(name):
    plan = TaskPlan.parse("2-1", 4)
    config = METHODS[name](fusion={"share": 0.25})
    network = NetworkConfig(backbone="resnet18", pretrained=False)
    first, second = (config.build(step, network) for step in (plan[0], plan[1]))
    assert not first.finishes
    previous, model = first.build_model(), second.build_model()
    second.init_from(model, previous)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    training = {id(p) for g in second.param_groups(model, Rates(new=1, aspp=1, old=1, backbone=1)) for p in g["params"]}
    old = {id(p) for p in second.frozen(model)}
    assert old
    groups = trained_groups(
        second, model, StepRecipe(epochs=1, batch_size=4, lr=Rates(new=1, aspp=1, old=1, backbone=1))
    )
    assert {id(p) for g in groups for p in g["params"]} == training - old
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1)
    second.finish(model, previous)
    weight = "backbone.conv1.weight"
    torch.testing.assert_close(model.state_dict()[weight], before[weight] + 0.25)
