"""The benchmark measures what it says: the plain way computes the same, every part runs, bad names are refused."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from barm.batch import total_loss
from barm.bench import plain
from barm.bench.cases import AUTOCAST, FP32, OURS, PLAIN, constant_work, our_update, random_batch, update_work
from barm.bench.facts import MATRIX, product_rates
from barm.bench.measure import side_by_side
from barm.bench.run import run_bench, setting_of, step_of
from barm.cli import app
from barm.errors import UserError
from barm.metrics import confusion_counts

ROOT = Path(__file__).parents[2]


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


def test_everything_is_called_in_turn():
    calls: list[str] = []
    costs = side_by_side({n: lambda n=n: calls.append(n) for n in "ab"}, torch.device("cpu"), rounds=2)
    assert "".join(calls[:6]) == "ababab"  # one round warms up
    assert costs["a"].least <= costs["a"].median <= costs["a"].most
    assert costs["a"].processor is not None
    assert 0 <= costs["a"].processor <= costs["a"].most * (os.cpu_count() or 1) + 1e-3


def test_memory_is_what_a_call_needs():
    costs = side_by_side({"large": lambda: torch.ones(32 << 20), "none": lambda: None}, torch.device("cpu"), rounds=1)
    if costs["large"].memory is None:
        pytest.skip("this system does not tell a process's peak")
    assert costs["large"].memory > 100 << 20
    assert costs["none"].memory < 10 << 20


def test_an_update_of_each_kind_runs():
    work = update_work(tiny())
    assert set(work) == {OURS, PLAIN, "bare network"}
    for function in work.values():
        function()


def test_names_are_checked(tmp_path):
    with pytest.raises(UserError, match="unknown part 'losess'; did you mean 'losses'"):
        run_bench(tiny(), ["losess"], 1, tmp_path / "data")
    with pytest.raises(UserError, match="unknown backbone 'no_net'"):
        run_bench(setting_of("no_net", "15-1", 20, 1, 2, 65, "cpu", "auto"), ["step"], 1, tmp_path / "data")


def test_growth_beyond_a_mask():
    step = step_of((1000, 1))
    assert (step.index, step.num_seen, step.group_sizes) == (1, 1002, (1000, 1))


def test_product_rates_are_those_of_both_precisions(monkeypatch):
    monkeypatch.setitem(MATRIX, "cpu", 128)  # a processor without bf16 takes a minute for the usual one
    setting = setting_of("test_resnet", "15-1", 20, 1, 2, 65, "cpu", "bf16-mixed")
    facts = product_rates(setting)
    assert len(facts) == 3
    for fact in facts.values():
        fp32, bf16, ratio = (float(w) for w in re.findall(r"\d+\.\d+", fact))
        assert fp32 > 0
        assert ratio == pytest.approx(bf16 / fp32, rel=0.2, abs=0.02)  # as rounded as they are shown
    assert all("x" not in fact for fact in product_rates(tiny()).values())  # one precision, no ratio


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


def test_the_command(shapes_voc, tmp_path):
    words = ["bench", "--model", "test_resnet", "--crop", "65", "--rounds", "1", "--device", "cpu", "--quiet"]
    words += ["--out", str(tmp_path / "out"), "--data", str(shapes_voc), "--precision", "32-true"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "bare network" in done.output
    result = json.loads((tmp_path / "out/bench.json").read_text())
    assert {r["part"] for r in result["rows"]} == {"step", "losses", "evaluation", "loader"}
    assert all(r["median"] > 0 and r["least"] <= r["median"] <= r["most"] for r in result["rows"])
    assert {"plain / bare network", "matrix product, TFLOP/s", "3x3 convolution, TFLOP/s"} <= set(result["facts"])
    assert "ours, rest on the device" in {r["name"] for r in result["rows"]}
    assert result["facts"]["counts of the same outputs, ours and plain"] == "the same"
    assert result["provenance"]["git"]


@pytest.mark.long
def test_the_standard_set(shapes_voc, tmp_path):
    """What `make bench` and, on a GPU, `make bench-gpu` run: here tiny and on the processor."""
    once = dict.fromkeys(("ROUNDS", "GROWTH_ROUNDS", "LOADER_ROUNDS"), "1")
    small = {"MODEL": "test_resnet", "CROP": "33", "DEVICE": "cpu", **once, "CONSTANT_ROUNDS": "1"}
    small |= {"CONSTANT_CROP": "33", "BACKBONES": "test_convnext"}
    env = {
        **os.environ,
        **small,
        "OUT": str(tmp_path),
        "DATA": str(shapes_voc),
        "BARM": str(Path(sys.executable).with_name("barm")),
    }
    done = subprocess.run([ROOT / "benchmarks/standard.sh"], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    names = {p.parent.name for p in tmp_path.glob("*/bench.json")}
    assert names == {
        "voc-15-1",
        "loader",
        "voc-15-1-losses",
        "ade-100-10",
        "ade-100-10-evaluation",
        "growth",
        "profile",
        "constant-test_convnext",
    }
    constant = json.loads((tmp_path / "constant-test_convnext/bench.json").read_text())
    assert (constant["model"]["backbone"], constant["crop"], constant["batch"]) == ("test_convnext", 33, 8)
    assert constant["provenance"]["threads"] == 1
    assert [r["name"] for r in constant["rows"]][:2] == [OURS, AUTOCAST]
    assert re.match(rf"ours [\d.]+ \(1\.00 x\), {AUTOCAST} [\d.]+", constant["facts"]["processor seconds, median"])
    assert (tmp_path / "growth/growth.png").stat().st_size > 10_000
    facts = json.loads((tmp_path / "profile/bench.json").read_text())["facts"]
    assert {"profile 1", "profile 10"} <= set(facts)
    assert all(0 < float(facts[f"convolutions' share of an {w}"][:-2]) < 100 for w in ("update", "evaluation"))
    growth = json.loads((tmp_path / "growth/bench.json").read_text())["facts"]
    assert "given back" in growth["50 branches, freed memory"]
