"""Rules of BARM that no golden file shows."""

from __future__ import annotations

import pytest
import torch
from torch import nn

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
