"""Rules of the methods that no golden file shows: divisors, factors, thresholds, levels, fresh weights, modes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from barm.batch import Batch
from barm.labels import Step
from barm.losses.common import pseudo_labels
from barm.losses.decomposed import multiple_binary_cross_entropy
from barm.losses.entropy import published_thresholds
from barm.methods import METHODS
from barm.methods.barm import BARMConfig
from barm.methods.base import Rates
from barm.methods.dkd import DKDConfig
from barm.methods.plop import PLOPConfig
from barm.methods.ssul import SSULConfig
from barm.models.heads import DecomposedOutput, GroupedOutput, PlainOutput, UnknownOutput
from barm.models.segmenter import NetworkConfig
from barm.ops.upsampled import computed_by, map_pixels, upsample

NETWORK = NetworkConfig(backbone="test_resnet", channels=16, pretrained=False)
BASE, STEP = Step(0, ((1, 2),)), Step(1, ((1, 2), (3,)))


def batch_of(label: torch.Tensor) -> Batch:
    return Batch(torch.zeros(len(label), 3, *label.shape[1:]), label, {})


@pytest.mark.parametrize("name", ["mib", "lwf", "ilt", "plop"])
def test_ignored_pixels_stay_in_the_divisor_of_step_0(name):
    """spec/mib.md Q3."""
    method = METHODS[name]().build(BASE, NETWORK)
    logits, label = torch.randn(2, 3, 4, 4), torch.randint(0, 3, (2, 16, 16))
    label[:, :8] = 255
    term = method.loss(PlainOutput(logits, logits, logits), None, batch_of(label))["ce"]
    assert int(term.number) == label.numel()
    assert float(term.total) == pytest.approx(
        float(nn.functional.cross_entropy(upsample(logits, (16, 16)), label, ignore_index=255, reduction="sum")),
        rel=1e-5,
    )


@pytest.mark.parametrize(("step", "factor"), [(BASE, 2.0), (STEP, 1.0)])
def test_factor_on_positive_pixels_of_dkd(step, factor):
    """spec/dkd.md section 10: 2 at step 0, 1 later."""
    method = DKDConfig(base_pos_weight=2.0, pos_weight=1.0).build(step, NETWORK)
    logits = torch.randn(2, step.num_seen, 4, 4)
    label = torch.randint(0, 2, (2, 16, 16)) * step.num_old
    scores = torch.rand(2, step.num_seen - 1, 4, 4)
    new = DecomposedOutput(logits, scores, -scores)
    known = step.num_old - 1
    old = DecomposedOutput(logits[:, : known + 1], scores[:, :known], -scores[:, :known]) if step.index else None
    found = method.loss(new, old, batch_of(label))["mbce"]
    rows = upsample(logits, (16, 16))[:, step.num_old :]
    wanted = multiple_binary_cross_entropy(rows, label, first=step.num_old, positive_weight=factor)
    assert float(found.value) == pytest.approx(float(wanted.value), rel=1e-5)


def test_thresholds_that_are_no_number_become_the_floor():
    """spec/plop.md P4: half of class 0's 9900 counts is what the published search has added up where it ends."""
    histogram = torch.zeros(STEP.num_seen, 100, dtype=torch.int64)
    histogram[0, :3] = torch.tensor([4900, 4900, 100])
    histogram[1, :4] = 100_000  # no bin holds half: infinite, so everything is believed
    histogram[2, 0] = 10_000
    found = published_thresholds(histogram, 0.002)
    assert [bool(b) for b in found.isnan()] == [True, False, False, False]
    method = PLOPConfig(threshold_floor=0.002).build(STEP, NETWORK)
    method.calibrate(histogram)
    torch.testing.assert_close(method.thresholds, torch.tensor([0.002, float("inf"), 0.005, 0.002]))


def test_levels_of_plop_are_taken_before_the_last_activation():
    """spec/plop.md section 5.1, with ReLU: nothing that comes after it is negative."""
    model = PLOPConfig().build(STEP, NETWORK).build_model().train()
    for norm in (m for m in model.backbone.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.ones_(norm.weight)  # fresh blocks otherwise add nothing to what the block before has activated
    out = model(torch.randn(2, 3, 64, 64))
    assert len(out.levels) == 4
    assert all(float(level.detach().min()) < 0 for level in out.levels)
    assert torch.equal(torch.relu(out.levels[-1]), out.feature)


def test_the_fifth_level_of_plop_is_the_classifiers_input():
    """spec/plop.md section 5.1: the backbone's last feature map itself is not compared."""
    method = PLOPConfig().build(STEP, NETWORK)
    levels = tuple(torch.randn(1, 4, 8, 8) for _ in range(4))
    feature, branch, logits = torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 8)
    old = PlainOutput(logits[:, :3], feature, branch, levels)
    new = PlainOutput(torch.cat([logits[:, :3], torch.zeros(1, 1, 8, 8)], dim=1), feature, branch, levels)
    batch = batch_of(torch.zeros(1, 8, 8, dtype=torch.long))
    changed = {"none": new, "feature": new._replace(feature=feature + 1), "branch": new._replace(branch=branch + 1)}
    pod = {name: float(method.loss(out, old, batch)["pod"].value) for name, out in changed.items()}
    assert pod["none"] == pod["feature"] == 0
    assert pod["branch"] > 0


@pytest.mark.parametrize("name", ["finetune", "lwf", "ilt"])
@pytest.mark.parametrize("decoder", ["v3", "added_pool"])
def test_fresh_classifier_rows(name, decoder):
    """Behind a neck that refines, Kaiming's normal; on MiB's body the framework's uniform (spec/mib.md section 6)."""
    width = 64
    network = NETWORK.model_copy(update={"channels": width, "decoder": decoder})
    many = Step(1, ((1,), tuple(range(2, 102))))
    weight = METHODS[name]().build(many, network).build_model().classifier.head[-1].weight.detach()
    assert weight.shape == (100, width, 1, 1)
    if decoder == "v3":
        assert float(weight.std()) == pytest.approx((2 / width) ** 0.5, rel=0.05)
    else:
        assert float(weight.std()) == pytest.approx((1 / (3 * width)) ** 0.5, rel=0.05)
        assert float(weight.abs().max()) <= width**-0.5


@pytest.mark.parametrize("copied", [False, True])
def test_a_new_ear_of_barm(copied):
    """spec/barm.md section 7: weights, scale and shift of head_pre, its statistics on request."""
    before = BARMConfig().build(BASE, NETWORK).build_model()
    pre = before.classifier.head_pre
    with torch.no_grad():
        for tensor in pre.state_dict().values():
            tensor.copy_(torch.rand(tensor.shape) + 2)
    method = BARMConfig(copy_ear_statistics=copied).build(STEP, NETWORK)
    model = method.build_model()
    method.init_from(model, before)
    conv, norm, _ = model.classifier.ear[0]
    assert torch.equal(conv.weight, pre[0].weight)
    assert torch.equal(norm.weight, pre[1].weight)
    assert torch.equal(norm.bias, pre[1].bias)
    expected = (pre[1].running_mean, pre[1].running_var) if copied else (torch.zeros(16), torch.ones(16))
    assert torch.equal(norm.running_mean, expected[0])
    assert torch.equal(norm.running_var, expected[1])


def test_dropout_of_barm_is_active_under_frozen_batch_norm():
    """spec/barm.md section 7."""
    method = BARMConfig().build(STEP, NETWORK)
    model = method.build_model().eval()
    method.train_mode(model)
    modes = {
        kind: {m.training for m in model.modules() if isinstance(m, kind)} for kind in (nn.Dropout, nn.BatchNorm2d)
    }
    assert modes == {nn.Dropout: {True}, nn.BatchNorm2d: {False}}
    trained = {id(p) for g in method.param_groups(model, Rates(new=1, aspp=1, old=1, backbone=1)) for p in g["params"]}
    assert not any(id(m.weight) in trained for m in model.modules() if isinstance(m, nn.BatchNorm2d))


def test_pseudo_labels_compare_logits():
    """spec/barm.md section 7: the sigmoid of both logits is 1 in single precision, the largest logit decides."""
    logits = torch.tensor([0.0, 20.0, 30.0]).view(1, 3, 1, 1)
    assert torch.sigmoid(logits).flatten().tolist() == [0.5, 1.0, 1.0]
    assert pseudo_labels(logits, torch.zeros(1, 1, 1, dtype=torch.long), threshold=0.7).item() == 2


@pytest.mark.parametrize(("loss", "threshold", "shown"), [("bce", 0.7, 2), ("bce", 0.9, 0), ("focal", 0.7, 0)])
def test_candidates_of_ssul_are_labelled_as_in_training(loss, threshold, shown):
    """spec/ssul.md Q20 and Q21: the sigmoid of 1.5 is 0.82, its softmax beside four zeros 0.53."""
    method = SSULConfig(loss=loss).build(STEP, NETWORK)
    logits = torch.tensor([0.0, 0.0, 0.0, 1.5, 0.0]).view(1, 5, 1, 1)
    batch = batch_of(torch.zeros(1, 1, 1, dtype=torch.long))
    assert method.annotate(UnknownOutput(logits), batch, threshold).item() == shown


def sure(scores: torch.Tensor) -> torch.Tensor:
    """Numbers so large that probabilities round to 0 and 1."""
    return (torch.rand_like(scores) - 0.5) * 400


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_threshold_of_1_accepts_nothing(name):
    """No probability is 1; sigmoid and softmax of a large logit round to it in single precision."""
    method = METHODS[name]().build(STEP, NETWORK)
    torch.manual_seed(0)
    with torch.no_grad():
        out = method.build_model().eval()(torch.zeros(1, 3, 48, 48))
    out = type(out)(*(tuple(map(sure, part)) if isinstance(part, tuple) else sure(part) for part in out))
    batch = batch_of(torch.zeros(1, 16, 16, dtype=torch.long))
    found = {t: method.annotate(out, batch, t).unique().tolist() for t in (0.999, 1.0)}
    assert found[1.0] == [0]
    assert found[0.999] != [0]  # the same network is believed below


@pytest.mark.parametrize("path", ["plain", "strips"])
@pytest.mark.parametrize("softmax", [False, True])
def test_pseudo_labels_with_a_threshold_of_1(path, softmax):
    logits = torch.tensor([-200.0, 200.0]).view(1, 2, 1, 1).expand(1, 2, 4, 4)
    label = torch.zeros(1, 16, 16, dtype=torch.long)
    with computed_by(path):
        for threshold, expected in ((1.0, 0), (0.999, 1)):
            found = map_pixels(pseudo_labels, logits, label, threshold=threshold, softmax=softmax)
            assert found.unique().tolist() == [expected]


def test_barm_upsamples_probabilities():
    """spec/barm.md section 2: between two pixels a large logit weighs no more than a sure probability."""
    method = BARMConfig().build(Step(0, ((1,),)), NETWORK)
    logits = torch.tensor([[20.0, 0.0], [0.0, 6.0]]).view(1, 2, 1, 2)
    assert upsample(logits, (1, 4)).argmax(dim=1).tolist() == [[[0, 0, 0, 1]]]
    assert method.predict(GroupedOutput((logits,), logits), (1, 4)).tolist() == [[[0, 0, 1, 1]]]
