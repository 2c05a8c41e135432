"""Rules of the training loop that no golden file shows."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from barm.api import fit
from barm.errors import UserError
from barm.labels import TaskPlan
from barm.methods import Rates
from barm.methods.dkd import DKDConfig
from barm.models.network import NetworkConfig

NETWORK = NetworkConfig(backbone="test_resnet", channels=16, pretrained=False)


def test_batch_norm_needs_two_pictures(tiny, tmp_path):
    with pytest.raises(UserError, match="batch_size is 1"):
        fit(tiny("barm", "2-1", "base.batch_size=1"), out=tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_dkd_rules():
    """From step 1 on only the newest classifier decays, and neither dropout nor batch norm is active."""
    plan, rates = TaskPlan.parse("2-1", 4), Rates(new=1e-2, aspp=1e-2, old=1e-2, backbone=1e-3)
    for index in (0, 1):
        method = DKDConfig().build(plan[index], NETWORK)
        model = method.build_model()
        decaying = {g["name"] for g in method.param_groups(model, rates) if g.get("weight_decay", 1) > 0}
        assert decaying == ({"new_head"} if index else {"new_head", "aspp", "old_heads", "backbone"})
        method.train_mode(model)
        active = {type(m).__name__ for m in model.modules() if m.training}
        assert (nn.Dropout.__name__ in active) == (index == 0)
        assert (nn.BatchNorm2d.__name__ in active) == (index == 0)
        image = torch.randn(2, 3, 48, 48)
        assert torch.isfinite(model(image).logits).all()
