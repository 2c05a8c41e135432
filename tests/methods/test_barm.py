"""Rules of BARM that no golden file shows."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from barm.batch import Batch
from barm.labels import Step
from barm.losses.common import pseudo_labels
from barm.methods.barm import BARMConfig
from barm.methods.groups import Rates
from barm.models.heads import GroupedOutput
from barm.models.segmenter import NetworkConfig
from barm.ops.upsampled import map_pixels, upsample

NETWORK = NetworkConfig(backbone="test_resnet", channels=16, pretrained=False)
BASE, STEP = Step(0, ((1, 2),)), Step(1, ((1, 2), (3,)))


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


def test_barm_upsamples_probabilities():
    """spec/barm.md section 2: between two pixels a large logit weighs no more than a sure probability."""
    method = BARMConfig().build(Step(0, ((1,),)), NETWORK)
    logits = torch.tensor([[20.0, 0.0], [0.0, 6.0]]).view(1, 2, 1, 2)
    assert upsample(logits, (1, 4)).argmax(dim=1).tolist() == [[[0, 0, 0, 1]]]
    assert method.predict(GroupedOutput((logits,), logits), (1, 4)).tolist() == [[[0, 0, 1, 1]]]


@pytest.mark.parametrize(
    ("last", "expected"),
    [  # background without residuals is 4, residuals are -1 and -2
        ((3.0, 1.0, 1.0), (1.0, 4.0)),  # a class of step 0 is nearest: no residual
        ((1.0, 3.0, 1.0), (1.0, 3.0)),
        ((1.0, 1.0, 3.0), (1.0, 2.0)),
    ],
)
def test_a_pixel_has_the_residual_of_its_own_step(last, expected):
    heads = [
        torch.tensor([[background, value]]).view(1, 2, 1, 1)
        for background, value in zip((4.0, -1.0, -2.0), last, strict=True)
    ]
    out = GroupedOutput(tuple(heads), heads[0])
    step = Step(2, ((1,), (2,), (3,)))
    for residual, value in zip(("all", "own"), expected, strict=True):
        method = BARMConfig(residual=residual).build(step, NETWORK)
        parts = method.background_parts(out)
        assert len(parts) == 3
        assert float(sum(parts)) == value
        assert torch.equal(method.scores(out)[:, :1], torch.sigmoid(torch.tensor(value)).view(1, 1, 1, 1))
        assert method.scores(out)[0, 1:, 0, 0].tolist() == torch.sigmoid(torch.tensor(last)).tolist()


def test_pseudo_labels_are_what_the_previous_network_predicts():
    """A class of step 0 that all residuals together, but not its own, lift above background."""
    label = torch.zeros(1, 16, 16, dtype=torch.long)
    step = Step(2, ((1,), (2,), (3,)))
    old = tuple(torch.tensor(v).view(1, 2, 1, 1).expand(1, 2, 16, 16) for v in ((3.0, 2.0), (-2.0, -9.0)))
    new = (*old, torch.zeros(1, 2, 16, 16))
    branch = torch.zeros(1, 16, 16, 16)
    values = {}
    for residual in ("all", "own"):
        method = BARMConfig(residual=residual).build(step, NETWORK)
        terms = method.loss(
            GroupedOutput(new, branch.repeat(1, 3, 1, 1)),
            GroupedOutput(old, branch.repeat(1, 2, 1, 1)),
            Batch(torch.zeros(1, 3, 16, 16, dtype=torch.uint8), label, {}),
        )
        values[residual] = float(terms["pb_bce"].value)
    # the label is background, whose logit is 3 - 2 + 0, or class 1, whose logit is 2
    assert values["own"] - values["all"] == pytest.approx(2.0 - 1.0)


def outputs(step, values, size=8):
    """A network's output whose logits are these everywhere; heads as the step's classes say."""
    parts = torch.tensor(values).view(1, -1, 1, 1).expand(1, len(values), size, size)
    heads = parts.split([1 + len(group) for group in step.groups], dim=1)
    return GroupedOutput(heads, torch.zeros(1, 16 * len(heads), size, size))


def test_thresholds_of_classes_of_which_the_previous_network_is_not_sure():
    """Half of the pixels of every old class become its labels, though tau is above their probability."""
    method = BARMConfig(pseudo_share=0.5).build(STEP, NETWORK)
    logits = torch.full((1, 3, 2, 4), -9.0)
    logits[0, 1, 0] = torch.tensor([3.0, 3.0, 3.0, 1.0])  # of class 1 it is sure
    logits[0, 2, 1] = torch.tensor([0.1, 0.2, 0.3, 0.4])  # of class 2 never above 0.6
    old = GroupedOutput((logits,), torch.zeros(1, 16, 2, 4))
    batch = Batch(torch.zeros(1, 3, 2, 4, dtype=torch.uint8), torch.zeros(1, 2, 4, dtype=torch.long), {})
    method.calibrate(method.observe(old, batch))
    assert method.state_dict()["thresholds"].tolist() == pytest.approx([0.7, 0.7, 0.57])
    again = BARMConfig(pseudo_share=0.5).build(STEP, NETWORK)
    again.load_state_dict(method.state_dict())
    label = pseudo_labels(old.logits, batch.label, threshold=again._threshold)
    assert label.tolist() == [[[1, 1, 1, 1], [0, 0, 2, 2]]]
    assert BARMConfig().build(STEP, NETWORK).state_dict() == {}


@pytest.mark.parametrize("share", [0.3, 0.5, 0.9])
def test_the_share_of_pseudo_labels_holds_at_the_labels_size(share):
    """The features are smaller than the labels: what is counted is what is labelled, to a bin of the histogram."""
    method = BARMConfig(pseudo_share=share, pseudo_threshold=0.999).build(STEP, NETWORK)
    logits = 4 * torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    old = GroupedOutput((logits,), torch.zeros(2, 16, 8, 8))
    batch = Batch(torch.zeros(2, 3, 64, 64, dtype=torch.uint8), torch.zeros(2, 64, 64, dtype=torch.long), {})
    method.calibrate(method.observe(old, batch))
    taken = upsample(logits, (64, 64)).argmax(dim=1)
    label = map_pixels(pseudo_labels, logits, batch.label, threshold=method._threshold)
    for channel in (1, 2):
        labelled = float((label == channel).sum() / (taken == channel).sum())
        assert share <= labelled < share + 0.05


def test_a_share_needs_pseudo_labels():
    with pytest.raises(ValueError, match="pseudo_share is a share of pseudo-labels, and pseudo is false"):
        BARMConfig(pseudo=False, pseudo_share=0.5)


def test_balance_weighs_the_pixels_of_a_rare_new_class():
    method = BARMConfig(class_balance=0.5, pseudo=False).build(STEP, NETWORK)
    label = torch.zeros(1, 8, 8, dtype=torch.long)
    label[0, 0, 0], label[0, 0, 1] = 3, 255
    batch = Batch(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), label, {})
    new, old = outputs(STEP, [0.5, -1.0, -1.0, 0.2, 0.3]), outputs(BASE, [0.5, -1.0, -1.0])
    method.set_pixels(torch.tensor([62, 0, 0, 1]))
    assert method.class_weights(label).tolist() == pytest.approx([1, 1, 1, 62**0.5])
    value = float(method.loss(new, old, batch)["pb_bce"].value)
    background, one = torch.tensor(0.5 + 0.2), torch.tensor(0.3)
    negative = nn.functional.softplus(-background) + nn.functional.softplus(one)
    positive = nn.functional.softplus(background) + 62**0.5 * nn.functional.softplus(-one)
    still = 2 * nn.functional.softplus(torch.tensor(-1.0))  # of the old classes, which get no gradient
    assert value == pytest.approx(float((62 * negative + positive) / 63 + still), rel=1e-5)
