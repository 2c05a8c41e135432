"""Rules of STAR that no golden file shows."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from barm.batch import Batch
from barm.errors import UserError
from barm.labels import Step
from barm.losses.prototypes import Plan, Statistics
from barm.methods.groups import Rates
from barm.methods.star import STAR, STARConfig
from barm.models.heads import BinaryOutput
from barm.models.segmenter import NetworkConfig

WIDTH = 16
NETWORK = NetworkConfig(backbone="test_resnet", channels=WIDTH, pretrained=False)
BASE, STEP = Step(0, ((1, 2),)), Step(1, ((1, 2), (3,)))


def state(counts: list[float], *, unknown: bool = False) -> dict[str, torch.Tensor]:
    """What a step hands on: two classes in two directions, without any spread."""
    known = Statistics.empty(2, WIDTH)
    prototype = torch.eye(WIDTH)[:2]
    prototype[1] *= not unknown
    return {
        **known._replace(prototype=prototype, mean=torch.ones(2))._asdict(),
        "counts": torch.tensor(counts, dtype=torch.float64),
    }


def method_of(rank: int = 0, world: int = 1, counts=(1000.0, 70.0, 50.0), **options: bool) -> STAR:
    method = STARConfig().build(STEP, NETWORK)
    method.set_conditions("overlap", rank, world)
    method.take_over(state(list(counts), **options))
    method.set_length(10, 100)
    method.calibrate(torch.tensor([500, 0, 0]))
    return method


def material(number: int = 4) -> tuple[BinaryOutput, BinaryOutput, Batch]:
    """Outputs of both networks and the batch."""
    torch.manual_seed(0)
    parts = [
        BinaryOutput(
            torch.randn(number, c, 3, 3), torch.rand(number, WIDTH, 3, 3), torch.randn(c, WIDTH), torch.randn(c)
        )
        for c in (3, 2)
    ]
    label = torch.randint(0, 2, (number, 48, 48)) * 3
    return *parts, Batch(torch.zeros(number, 3, 48, 48), label, {})


def half(out: BinaryOutput, part: slice) -> BinaryOutput:
    return out._replace(logits=out.logits[part], branch=out.branch[part])


def test_processes_share_the_drawing():
    """Q7, changed: every process draws its part, so the sums of two are those of one (with one exception, SAD)."""
    new, old, batch = material()
    whole = method_of()
    assert whole.order.tolist() == [0] * 7 + [1] * 5
    one, parts = whole.loss(new, old, batch), []
    for rank in range(2):
        here = slice(2 * rank, 2 * rank + 2)
        method = method_of(rank, 2)
        assert len(method.order) == 6
        parts.append(method.loss(half(new, here), half(old, here), Batch(batch.image[here], batch.label[here], {})))
    for name in ("mbce", "ocfm"):
        assert float(sum(p[name].total for p in parts)) == pytest.approx(float(one[name].total), rel=1e-5)
        assert float(sum(p[name].number for p in parts)) == pytest.approx(float(one[name].number), rel=1e-6)
    assert sum(float(p["sad"].number) for p in parts) == 2


def test_features_are_drawn_anew_every_time():
    method = method_of()
    method.old = method.old._replace(spread=torch.ones(2, WIDTH))
    assert not torch.equal(method._drawn(), method._drawn())
    torch.manual_seed(3)
    first = method._drawn()
    torch.manual_seed(3)
    assert torch.equal(first, method._drawn())


def test_a_class_of_which_nothing_is_known_is_not_replayed():
    """Q5: in the release such a class is an error. It is not compared with new classes either."""
    method = method_of(unknown=True)
    assert method.order.tolist() == [0] * 7
    assert len(method.prototypes) == 1


@pytest.mark.parametrize(("setting", "features"), [("overlap", 4), ("disjoint", 7), ("partitioned", 7)])
def test_other_settings_than_overlap_are_disjoint(setting, features):
    """Without images in common, what the previous network sees is no part of what was counted."""
    method = STARConfig().build(STEP, NETWORK)
    method.set_conditions(setting, 0, 1)
    method.take_over(state([1000.0, 70.0, 0.0]))
    method.set_length(10, 100)
    method.calibrate(torch.tensor([500, 30, 0]))
    assert len(method.order) == features


def test_a_resumed_step_has_the_same_plan():
    before, after = method_of(), STARConfig().build(STEP, NETWORK)
    after.take_over(state([1000.0, 70.0, 50.0]))
    after.set_length(10, 100)
    after.load_state_dict(before.state_dict())
    assert torch.equal(after.order, before.order)
    assert after.repetition == before.repetition > 0
    assert STARConfig().build(BASE, NETWORK).state_dict() == {}


def test_statistics_that_are_missing_or_do_not_fit():
    method = STARConfig().build(STEP, NETWORK)
    with pytest.raises(UserError, match=r"step 0 has none .*imported.* train that step with star"):
        method.take_over({})
    for name in ("counts", "spread"):
        wrong = state([1.0, 2.0, 3.0])
        wrong[name] = wrong[name][:1]
        with pytest.raises(UserError, match="the statistics of step 0 do not fit"):
            method.take_over(wrong)


def test_what_trains_and_how_fast():
    """Sections 2 and 6: fresh classifiers are random, dropout and batch norm rest from step 1 on, all have decay."""
    before, method = STARConfig().build(BASE, NETWORK).build_model(), STARConfig().build(STEP, NETWORK)
    model = method.build_model()
    fresh = model.classifier.head[1].weight.detach().clone()
    method.init_from(model, before)
    assert torch.equal(model.classifier.head[1].weight, fresh)
    assert torch.equal(model.classifier.head[0].weight, before.classifier.head[0].weight)
    method.train_mode(model)
    resting = (nn.Dropout, nn.modules.batchnorm._BatchNorm)
    assert not any(m.training for m in model.modules() if isinstance(m, resting))
    groups = method.param_groups(model, Rates(new=0.01, aspp=0.001, old=0.002, backbone=0.0001))
    assert {g["name"]: g["lr"] for g in groups} == {
        "new_head": 0.01,
        "aspp": 0.001,
        "old_heads": 0.002,
        "backbone": 0.0001,
    }
    assert not any("weight_decay" in g for g in groups)


def test_a_plan_of_nothing_is_a_loss_without_replay():
    new, old, batch = material()
    method = method_of()
    with_replay = method.loss(new, old, batch)["mbce"]
    method.replay(Plan((0, 0), 0.0))
    without = method.loss(new, old, batch)["mbce"]
    assert float(without.number) == 4 * 9
    assert float(with_replay.number) > 4 * 9 + 12


def test_candidates_of_star_have_their_own_class():
    """Q9: the release takes the first class for background, and every other for the one before it."""
    logits = torch.tensor([[3.0, -9.0, -9.0], [-9.0, -9.0, 3.0], [1.0, 1.0, 1.0]]).T.reshape(1, 3, 1, 3)
    out = BinaryOutput(logits, logits, logits, logits)
    batch = Batch(torch.zeros(1, 3, 1, 3), torch.zeros(1, 1, 3, dtype=torch.long), {})
    assert STARConfig().build(STEP, NETWORK).annotate(out, batch, 0.9).tolist() == [[[1, 3, 0]]]
