"""Rules of the training loop that no golden file shows."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from barm.api import fit
from barm.batch import Batch
from barm.engine.config import RuntimeConfig, StepRecipe
from barm.engine.runtime import Runtime
from barm.engine.train import StepTrainer
from barm.errors import UserError
from barm.labels import TaskPlan
from barm.methods.barm import BARMConfig
from barm.methods.dkd import DKDConfig
from barm.methods.groups import Rates
from barm.models.segmenter import NetworkConfig

RATES = Rates(new=0.1, aspp=0.1, old=0.1, backbone=0.1)
NETWORK = NetworkConfig(backbone="test_resnet", channels=16, pretrained=False)


def test_batch_norm_needs_two_images(tiny, tmp_path):
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


def trainer_of(rt, total=40, **options):
    method = BARMConfig().build(TaskPlan.parse("2-1", 4)[0], NETWORK)
    torch.manual_seed(0)
    recipe = StepRecipe(epochs=1, batch_size=2, lr=RATES, **options)
    return StepTrainer(method, rt.place(method.build_model()), None, recipe, total, rt, seed=1)


def numbers_of(trainer):
    """Parameters and buffers, without the number of batches seen, which nothing depends on."""
    state = trainer.model.state_dict()
    return {name: value.clone() for name, value in state.items() if value.is_floating_point()}


def test_processes_drop_out_other_features():
    rt, weights = Runtime(RuntimeConfig(device="cpu", precision="32-true")), []
    batch = Batch(torch.randn(2, 3, 48, 48), torch.randint(0, 3, (2, 48, 48)), {})
    for rank in (0, 0, 1):
        rt.rank = rank
        trainer = trainer_of(rt)
        trainer.update(batch)
        weights.append(torch.cat([p.detach().flatten() for p in trainer.model.parameters()]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_an_update_whose_loss_is_not_finite_is_left_out():
    """Also the very first one; parameters, momentum, the statistics of batch norm and the count say so, and the next
    update is the usual one."""
    rt = Runtime(RuntimeConfig(device="cpu", precision="32-true"))
    good = Batch(torch.randn(2, 3, 48, 48), torch.randint(0, 3, (2, 48, 48)), {})
    bad = good._replace(image=good.image * float("nan"))
    broken, whole = trainer_of(rt), trainer_of(rt)
    before = numbers_of(broken)
    broken.update(bad, report=False)
    assert all(torch.equal(v, before[n]) for n, v in numbers_of(broken).items())
    assert (broken.skipped, broken.skipped_in_a_row) == (1, 1)
    for trainer in (broken, whole):
        trainer.iteration = 5
        trainer._set_rates()
        trainer.update(good)
    assert (broken.skipped, broken.skipped_in_a_row) == (1, 0)
    theirs = numbers_of(whole)
    assert all(torch.equal(v, theirs[n]) for n, v in numbers_of(broken).items())
    assert any(not torch.equal(v, before[n]) for n, v in theirs.items() if n.endswith("running_mean"))


def test_a_restored_step_goes_on_counting_what_was_left_out():
    """Both counts: what the step tells at its end, and how many in a row end it."""
    rt = Runtime(RuntimeConfig(device="cpu", precision="32-true"))
    good = Batch(torch.randn(2, 3, 48, 48), torch.randint(0, 3, (2, 48, 48)), {})
    bad = good._replace(image=good.image * float("nan"))
    first, second = trainer_of(rt), trainer_of(rt)
    for batch in (bad, good, bad, bad):
        first.update(batch, report=False)
    assert (first.skipped, first.skipped_in_a_row) == (3, 2)
    second.load_state_dict(first.state_dict())
    assert (second.skipped, second.skipped_in_a_row) == (3, 2)
    second.update(bad, report=False)
    assert (second.skipped, second.skipped_in_a_row) == (4, 3)


@pytest.mark.parametrize("world", [1, 2])
def test_a_term_without_any_pixel_has_no_gradient(world, monkeypatch):
    """0 divided by 0, or 0 times infinity, would be no number; with two processes, where neither has a pixel."""
    rt = Runtime(RuntimeConfig(device="cpu", precision="32-true"))
    trainer = trainer_of(rt, weight_decay=0.0)
    monkeypatch.setattr(rt, "world", world)
    monkeypatch.setattr(rt, "all_sum", lambda values: values)
    before = {n: p.clone() for n, p in trainer.model.named_parameters()}
    ignored = Batch(torch.randn(2, 3, 48, 48), torch.full((2, 48, 48), 255), {})
    outcome = trainer.update(ignored)
    assert all(torch.equal(p, before[n]) for n, p in trainer.model.named_parameters())
    assert outcome.values == {"loss": 0.0, "pb_bce": 0.0}
    assert trainer.skipped == 0


def test_values_come_when_they_are_asked_for():
    rt = Runtime(RuntimeConfig(device="cpu", precision="32-true"))
    trainer = trainer_of(rt)
    batch = Batch(torch.randn(2, 3, 48, 48), torch.randint(0, 3, (2, 48, 48)), {})
    assert trainer.update(batch, report=False).values is None
    assert set(trainer.update(batch).values) == {"loss", "pb_bce"}
