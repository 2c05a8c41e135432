"""Rules of RCIL that no golden file shows."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from barm.labels import Step
from barm.methods.groups import Rates
from barm.methods.mib import MiBConfig
from barm.methods.rcil import RCILConfig
from barm.models.neck import LEAK
from barm.models.pairs import pairs_of
from barm.models.segmenter import NetworkConfig

NETWORK = NetworkConfig(backbone="test_resnet", channels=16, pretrained=False)
BASE, STEP = Step(0, ((1, 2),)), Step(1, ((1, 2), (3,)))
RATES = Rates(new=0.1, aspp=0.1, old=0.1, backbone=0.1)


def test_from_step_1_on_the_old_branch_alone_does_not_train():
    """Sections 3 and Q13: it is in no group, so it has neither gradient nor weight decay; at step 0 all trains."""
    for step in (BASE, STEP):
        method = RCILConfig().build(step, NETWORK)
        model = method.build_model()
        training = {id(p) for g in method.param_groups(model, RATES) for p in g["params"]}
        still = {name for name, p in model.named_parameters() if id(p) not in training}
        assert still == {name for name in model.state_dict() if ".old." in name and step is STEP}
        method.train_mode(model)
        assert all(m.training for m in model.modules() if isinstance(m, nn.BatchNorm2d))


def test_the_new_branch_and_the_rest_go_on_as_they_were():
    before = RCILConfig().build(BASE, NETWORK).build_model()
    for parameter in before.parameters():
        parameter.data += torch.randn_like(parameter)
    method = RCILConfig().build(STEP, NETWORK)
    model = method.build_model()
    method.init_from(model, before)
    own, given = model.state_dict(), before.state_dict()
    assert all(torch.equal(value, given[k]) for k, value in own.items() if ".old." not in k and "head.1." not in k)
    for student, teacher in zip(pairs_of(model), pairs_of(before), strict=True):
        assert torch.equal(student.old[0].weight, teacher.merged().weight)


def test_the_start_of_mib_is_a_switch():
    """Q5: published, the new biases are random and the background's stays."""
    torch.manual_seed(0)
    before = RCILConfig().build(BASE, NETWORK).build_model()
    mib = MiBConfig().build(BASE, NETWORK).build_model()
    mib.classifier.head.load_state_dict(before.classifier.head.state_dict())
    heads = []
    for config, previous in ((MiBConfig(), mib), (RCILConfig(shift_bias=True), before), (RCILConfig(), before)):
        method = config.build(STEP, NETWORK)
        model = method.build_model()
        drawn = model.classifier.head[-1].bias.detach().clone()
        method.init_from(model, previous)
        heads.append(model.classifier.head)
    assert all(torch.equal(a, b) for a, b in zip(heads[0].parameters(), heads[1].parameters(), strict=True))
    assert torch.equal(heads[2][-1].bias, drawn)
    assert float(heads[2][0].bias[0] - heads[1][0].bias[0]) == pytest.approx(math.log(2))


@pytest.mark.parametrize("activation", ["relu", "leaky_relu"])
def test_levels_of_rcil_are_taken_after_the_last_activation(activation):
    """Q2; with the leak what is negative is small."""
    model = RCILConfig().build(STEP, NETWORK.model_copy(update={"activation": activation})).build_model().train()
    for norm in (m for m in model.backbone.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.ones_(norm.weight)
    out = model(torch.randn(2, 3, 64, 64))
    assert torch.equal(out.levels[-1], out.feature)
    least = [float(level.detach().min()) for level in out.levels]
    assert all(low == 0 if activation == "relu" else -10 * LEAK < low < 0 for low in least)


def test_step_0_is_that_of_no_other_method():
    """Q15."""
    assert RCILConfig().base_training != MiBConfig().base_training
    assert RCILConfig().base_training == RCILConfig(cube_weight=1).base_training
