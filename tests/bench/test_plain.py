"""The plain way computes what ours computes."""

from __future__ import annotations

import pytest
import torch

from barm.batch import total_loss
from barm.bench import plain
from barm.bench.cases import random_batch
from barm.bench.run import setting_of
from barm.metrics import confusion_counts


def tiny(task: str = "15-1", step: int = 2):
    return setting_of("test_resnet", task, 20, step, 2, 65, "cpu", "32-true")


@pytest.mark.parametrize("step", [1, 3])
def test_the_plain_way_computes_the_same(step):
    """Value and gradients of a whole update's objective, prediction and counts."""
    setting = tiny(step=step)
    rt = setting.fast()
    method, batch = setting.method, random_batch(setting, rt)
    model = method.build_model().eval()
    with torch.no_grad():
        old = setting.before.build_model().eval()(batch.image)
    found = []
    for compute in (lambda new: total_loss(method.loss(new, old, batch)), lambda new: plain.loss(new, old, batch)):
        model.zero_grad()
        objective = compute(model(batch.image))
        objective.backward()
        found.append(
            (float(objective.detach()), {n: p.grad for n, p in model.named_parameters() if p.grad is not None})
        )
    (ours, gradients), (theirs, expected) = found
    assert ours == pytest.approx(theirs, rel=1e-5)
    for name, gradient in expected.items():
        assert float((gradients[name] - gradient).abs().max()) <= 1e-4 * max(float(gradient.abs().max()), 1e-6), name
    out = model(batch.image)
    prediction = method.predict(out, batch.size)
    assert torch.equal(prediction, plain.predict(out, batch.size))
    counts = confusion_counts(prediction, batch.label, setting.step.num_seen)
    assert counts.tolist() == plain.counts(prediction, batch.label, setting.step.num_seen).tolist()
