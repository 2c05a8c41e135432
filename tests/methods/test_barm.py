"""Rules of BARM that no golden file shows."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from barm.batch import Batch
from barm.labels import Step
from barm.methods.barm import BARMConfig
from barm.methods.base import Rates
from barm.models.heads import GroupedOutput
from barm.models.segmenter import NetworkConfig
from barm.ops.upsampled import upsample

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
