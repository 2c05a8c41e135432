"""Facts about a machine."""

from __future__ import annotations

import re

import pytest

from barm.bench.facts import MATRIX, memory_forecast, product_rates
from barm.bench.run import setting_of


def tiny(task: str = "15-1", step: int = 2):
    return setting_of("test_resnet", task, 20, step, 2, 65, "cpu", "32-true")


def test_product_rates_are_those_of_both_precisions(monkeypatch):
    monkeypatch.setitem(MATRIX, "cpu", 128)  # a processor without bf16 takes a minute for the usual one
    setting = setting_of("test_resnet", "15-1", 20, 1, 2, 65, "cpu", "bf16-mixed")
    facts, rate = product_rates(setting)
    assert len(facts) == 3
    reached = [float(re.findall(r"\d+\.\d+", fact)[1]) for name, fact in facts.items() if "convolution" in name]
    assert rate == pytest.approx(1e12 * max(reached), rel=0.2)
    for fact in facts.values():
        fp32, bf16, ratio = (float(w) for w in re.findall(r"\d+\.\d+", fact))
        assert fp32 > 0
        assert ratio == pytest.approx(bf16 / fp32, rel=0.2, abs=0.02)  # as rounded as they are shown
    assert all("x" not in fact for fact in product_rates(tiny())[0].values())  # one precision, no ratio


def test_memory_is_counted_and_turned_into_batches():
    facts = memory_forecast(setting_of("test_resnet", "15-1", 20, 1, 2, 65, "cpu", "32-true"))
    names = ["memory of an update, batch 2", "largest batch, predicted"]
    assert list(facts) == [*names, "kept of an image, first step", "kept of an image, later steps"]
    for kept in list(facts.values())[2:]:
        assert re.fullmatch(r"\d+ MiB, with runtime.gradient_checkpointing \d+ MiB \(0\.\d+ x\)", kept)
    batches = [int(n) for n in re.findall(r"(\d+) on \d+ GiB", facts["largest batch, predicted"])]
    assert len(batches) == 3
    assert batches == sorted(batches)
    large = memory_forecast(setting_of("test_resnet", "15-1", 20, 1, 2, 5001, "cpu", "32-true"))
    fewer = [int(n) for n in re.findall(r"(\d+) on \d+ GiB", large["largest batch, predicted"])]
    assert 0 < max(fewer) < batches[0] / 1000
