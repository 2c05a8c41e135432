"""What is measured: every update, with the same operations."""

from __future__ import annotations

import re

import pytest
from torch.utils.flop_counter import FlopCounterMode

from barm.bench.cases import AUTOCAST, FP32, OURS, PLAIN, constant_work, our_update, update_work
from barm.bench.run import setting_of


def tiny(task: str = "15-1", step: int = 2):
    return setting_of("test_resnet", task, 20, step, 2, 65, "cpu", "32-true")


def test_an_update_of_each_kind_runs():
    work = update_work(tiny())
    assert set(work) == {OURS, PLAIN, "bare network"}
    for function in work.values():
        function()


def test_operations_are_counted():
    """An update of ours has the operations of the plain one, but for the interpolation by products."""
    flops = []
    for work in (our_update(tiny()), update_work(tiny())[PLAIN]):
        work()
        with FlopCounterMode(display=False) as counter:
            work()
        flops.append(counter.get_total_flops())
    assert flops[0] == pytest.approx(flops[1], rel=0.05)


@pytest.mark.parametrize("backbone", ["test_efficientnet", "test_convnext"])
def test_a_depthwise_constant(backbone):
    """The same logits ours and plain, and fp32 as a third where another precision is asked for."""
    setting = setting_of(backbone, "15-1", 20, 1, 2, 65, "cpu", "bf16-mixed")
    work, agreement = constant_work(setting)
    assert list(work) == [OURS, AUTOCAST, FP32]
    exact = work[FP32]()
    for name, tolerance in ((OURS, 0.1), (AUTOCAST, 0.1)):
        for a, b in zip(work[name]().heads, exact.heads, strict=True):
            assert float((a.float() - b).abs().max()) <= tolerance * float(b.abs().max())
    apart = re.findall(r"\d\.\de[-+]\d\d", agreement()["logits from those in fp32, of the largest"])
    assert len(apart) == 2
    assert all(float(share) <= 0.1 for share in apart)
    assert list(constant_work(tiny())[0]) == [OURS, AUTOCAST]
