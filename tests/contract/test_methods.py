"""What every method must keep, whatever it does."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch

from barm.batch import Batch, total_loss
from barm.labels import TaskPlan
from barm.losses.common import best_channel
from barm.methods import METHODS
from barm.methods.groups import Rates
from barm.models.segmenter import NetworkConfig
from barm.ops.strips import map_views
from barm.ops.upsampled import upsample

NETWORK = NetworkConfig(backbone="test_resnet", channels=16, pretrained=False)
PLAN = TaskPlan.parse("2-1", 4)
CLASSIFIERS = ("classifier.head", "classifier.aux.", "classifier.regression.")
RATES = Rates(new=0.1, aspp=0.1, old=0.01, backbone=0.01)


def setting(name: str, index: int):
    """Method, model, output, teacher's output and batch at a step."""
    torch.manual_seed(0)
    method = METHODS[name](name=name).build(PLAN[index], NETWORK)
    model = method.build_model()
    image = torch.randn(2, 3, 48, 40)
    label = torch.randint(0, PLAN[index].num_seen, (2, 48, 40))
    if method.policy.supervision == "step" and index:
        label[label > 0] = PLAN[index].num_seen - 1
    label[:, :3] = 255
    old = None
    if index:
        previous = METHODS[name](name=name).build(PLAN[index - 1], NETWORK).build_model().eval()
        surer(previous)
        method.init_from(model, previous)
        with torch.no_grad():
            old = previous(image) if method.uses_teacher else None
    method.train_mode(model)
    return method, model, model(image), old, Batch(image, label, {})


def surer(model: torch.nn.Module) -> None:
    """Let a network with random weights see classes, as a trained one does; some terms are about these alone."""
    for head in model.classifier.head:
        with torch.no_grad():
            [m for m in head.modules() if isinstance(m, torch.nn.Conv2d)][-1].bias += 1


def training(name: str, index: int):
    """As `setting`; a step that has no updates is left out."""
    if not METHODS[name](name=name).build(PLAN[index], NETWORK).trains:
        pytest.skip(f"{name} trains nothing at step {index}")
    return setting(name, index)


def newest(model: torch.nn.Module) -> torch.nn.Parameter:
    """The weight of the newest classifier."""
    return [m for m in model.classifier.head[-1].modules() if isinstance(m, torch.nn.Conv2d)][-1].weight


@pytest.fixture(params=sorted(METHODS))
def name(request) -> str:
    return request.param


@pytest.mark.parametrize("index", [0, 1, 2])
def test_terms_are_finite_and_reach_the_newest_classifier(name, index):
    method, model, new, old, batch = training(name, index)
    terms = method.loss(new, old, batch)
    total = total_loss(terms)
    assert total.dim() == 0
    assert all(math.isfinite(float(t.value.detach())) and float(t.number) > 0 for t in terms.values())
    total.backward()
    gradient = newest(model).grad
    assert gradient is not None
    assert float(gradient.abs().sum()) > 0


@pytest.mark.parametrize("loss", ["bce", "ce", "focal"])
def test_every_term_is_explained(name, loss):
    """Reports say beside a term's curve what it is; only the method knows."""
    known = METHODS[name].terms
    try:
        config = METHODS[name](name=name, loss=loss)
    except ValueError:  # this method takes another loss only
        return
    for index in (0, 1):
        _, _, new, old, batch = training(name, index)
        logged = config.build(PLAN[index], NETWORK).loss(new, old, batch)
        for term in logged:
            assert known[term].endswith("."), term
            assert len(known[term].split()) > 3


def test_the_documents_explain_the_terms():
    rows = (Path(__file__).parents[2] / "docs/method.md").read_text("utf-8")
    for config in METHODS.values():
        for term, what in config.terms.items():
            assert f"| `{term}` | {what} |" in rows


@pytest.mark.parametrize("index", [0, 2])
def test_the_prediction_is_where_the_decided_probability_is_largest(name, index):
    """So that probabilities of several views of an image can be averaged and still be the method's own rule."""
    method, model, _, _, batch = setting(name, index)
    with torch.no_grad():
        out = model.eval()(batch.image)
    scores = method.decided(upsample(method.upsampled(out), batch.size))
    assert scores.shape == (2, PLAN[index].num_seen, *batch.size)
    assert torch.equal(method.predict(out, batch.size), scores.argmax(1))
    views = [method.upsampled(out), method.upsampled(out)[:, :, ::2, ::2]]
    by_strips = map_views(lambda *values: best_channel(sum(map(method.decided, values))), views, batch.size)
    whole = sum(method.decided(upsample(view, batch.size)) for view in views)
    assert torch.equal(by_strips, whole.argmax(1))


def test_equal_base_training_is_the_same_loss(name):
    """Methods that say so may take over each other's step 0: network and value of the loss are equal there."""
    method, model, new, old, batch = setting(name, 0)
    for other in METHODS:
        config = METHODS[other](name=other)
        if config.base_training != METHODS[name](name=name).base_training:
            continue
        twin = config.build(PLAN[0], NETWORK)
        assert {k: v.shape for k, v in twin.build_model().state_dict().items()} == {
            k: v.shape for k, v in model.state_dict().items()
        }
        theirs, same = setting(other, 0), total_loss(method.loss(new, old, batch))
        assert torch.equal(total_loss(theirs[0].loss(theirs[2], theirs[3], theirs[4])), same)


def test_only_the_same_step_zero_may_be_taken_over():
    start = {name: METHODS[name](name=name).base_training for name in METHODS}
    assert start["barm"] == start["finetune"] == start["joint"]
    assert start["mib"] == start["plop"] == start["lwf"] == start["ilt"]
    assert METHODS["finetune"](loss="ce").base_training not in (start["finetune"], start["mib"])
    assert METHODS["dkd"](base_pos_weight=35).base_training != start["dkd-m"] == start["dkd"]
    assert METHODS["ssul"](pseudo=False).base_training == start["ssul-m"]
    assert METHODS["star"](pos_weight=30).base_training != start["star"] == start["star-m"] != start["dkd"]


def test_loss_changes_no_argument(name):
    method, _, new, old, batch = training(name, 1)
    before = copy.deepcopy((batch.label, batch.image, [t.detach().clone() for t in new if torch.is_tensor(t)]))
    old_before = copy.deepcopy(old)
    method.loss(new, old, batch)
    assert torch.equal(batch.label, before[0])
    assert torch.equal(batch.image, before[1])
    assert all(torch.equal(a, b) for a, b in zip([t for t in new if torch.is_tensor(t)], before[2], strict=True))
    if old is not None:
        assert torch.equal(old.logits, old_before.logits)


@pytest.mark.parametrize("index", [0, 2])
def test_predictions_are_seen_channels(name, index):
    method, model, _, _, batch = setting(name, index)
    model.eval()
    with torch.no_grad():
        prediction = method.predict(model(batch.image), (48, 40))
    assert prediction.shape == (2, 48, 40)
    assert int(prediction.min()) >= 0
    assert int(prediction.max()) < PLAN[index].num_seen


@pytest.mark.parametrize("index", [0, 1])
def test_parameter_groups_are_disjoint_and_hold_the_newest_head(name, index):
    method, model, *_ = training(name, index)
    params = [p for g in method.param_groups(model, RATES) for p in g["params"]]
    assert len({id(p) for p in params}) == len(params)
    assert id(newest(model)) in {id(p) for p in params}


def test_frozen_batch_norm_survives_train_mode(name):
    method, model, *_ = setting(name, 1)
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert all(m.training != method.bn_frozen for m in norms)
    in_groups = {id(p) for g in method.param_groups(model, RATES) for p in g["params"]}
    assert all((id(m.weight) in in_groups) != method.bn_frozen for m in norms)
    assert model.training


def body(name: str) -> dict[str, torch.Size]:
    """Shapes of all tensors but the classifiers proper."""
    state = METHODS[name](name=name).build(PLAN[0], NETWORK).build_model().state_dict()
    return {k: v.shape for k, v in state.items() if not k.startswith(CLASSIFIERS)}


def test_the_same_body_for_all(name):
    """Some convolutions may be there twice, each with its batch norm."""
    found, expected = body(name), body("barm")
    twice = {k for k in found if ".new." in k}
    single = {k: shape for k, shape in found.items() if ".old." not in k and k not in twice}
    assert single.items() <= expected.items()
    assert len(found) - len(twice) == len(expected)
