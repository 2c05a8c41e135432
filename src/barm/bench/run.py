"""Run the parts of `barm bench` and collect rows, ratios, JSON and a plot."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from barm.bench.cases import (
    BARE,
    COMPILED,
    OURS,
    PLAIN,
    SINGLY,
    Setting,
    constant_work,
    evaluation_work,
    launch_work,
    loader_cost,
    losses_work,
    our_update,
    update_work,
)
from barm.bench.facts import kept_memory, memory_forecast, product_rates, profiled
from barm.bench.measure import Cost, side_by_side
from barm.engine.checkpoint.provenance import provenance
from barm.engine.config import Precision
from barm.errors import UserError, nearest
from barm.labels import Step, TaskPlan
from barm.models.segmenter import MODELS, NetworkConfig

PARTS = ("step", "losses", "evaluation", "loader", "constant", "launch", "memory", "growth", "profile")
BRANCHES, CLASSES, SIDES = (1, 10, 50), (21, 151, 1001), (0.5, 1.0, 1.5)  # sides as multiples of the crop
MATRIX_RATE = {"H200": 790e12, "H100": 790e12}  # dense bf16 products per second that such a GPU was seen to reach
Say = Callable[[str], None]


@dataclass(frozen=True)
class Row:
    """One line of the table: name, cost, and time as a multiple of our version's."""

    part: str
    name: str
    cost: Cost
    ratio: float


@dataclass(frozen=True)
class Result:
    """All measurements of one call.

    Attributes:
        rows: in the order of the table.
        facts: further findings by name, each one line.
        growth: seconds and bytes of our update, by the varied quantity and its value.
        setup: settings and provenance.
    """

    rows: tuple[Row, ...]
    facts: Mapping[str, str]
    growth: Mapping[str, Mapping[int, Cost]]
    setup: Mapping[str, Any]

    def to_json(self) -> str:
        """The result as JSON, with times in seconds and sizes in bytes."""
        rows = [{"part": r.part, "name": r.name, **r.cost.as_dict(), "ratio": r.ratio} for r in self.rows]
        growth = {q: {str(v): c.as_dict() for v, c in costs.items()} for q, costs in self.growth.items()}
        whole = {"rows": rows, "facts": dict(self.facts), "growth": growth, **self.setup}
        return json.dumps(whole, indent=1) + "\n"


def run_bench(
    setting: Setting, parts: Sequence[str], rounds: int, data: Path | str, say: Say = lambda _: None
) -> Result:
    """Run the chosen parts of the benchmark.

    Args:
        setting: of the update.
        parts: names in `PARTS`.
        rounds: of every comparison.
        data: data set of the part `loader`; generated where it does not exist.
        say: called with what is being done.
    """
    for part in parts:
        if part not in PARTS:
            raise UserError(f"unknown part '{part}'{nearest(part, PARTS) or '; known: ' + ', '.join(PARTS)}")
    rt = setting.fast()
    rows: list[Row] = []
    facts: dict[str, str] = {}
    growth: dict[str, dict[int, Cost]] = {}
    for part in parts:
        say(part)
        if part == "growth":
            growth = measure_growth(setting, rounds, say)
            if rt.device.type == "cpu":
                few, many = (replace(setting, step=step_of((15, *[1] * n))) for n in (BRANCHES[0], BRANCHES[-1]))
                facts["50 branches, freed memory"] = kept_memory(few, many, rounds)
            facts["50 branches"] = (
                f"an update with {BRANCHES[-1]} later steps costs "
                f"{growth['steps'][BRANCHES[-1]].median / growth['steps'][BRANCHES[0]].median:.2f} x one with 1"
            )
        elif part == "memory":
            facts |= memory_forecast(setting)
        elif part == "profile":
            works = {
                "an update": our_update(setting, cuda_graphs=False),
                "an evaluation": evaluation_work(setting)[0][OURS],
            }
            facts |= profiled(works, rt.device)
        else:
            costs, found = _part(part, setting, rounds, Path(data), rt.device, say)
            rows += [Row(part, n, c, c.median / costs[OURS].median) for n, c in costs.items()]
            facts |= found
    if {"step", "loader"} <= set(parts):
        facts["loader ahead of the step"] = _ahead(rows, setting)
    setup = {
        "model": setting.network.model_dump(mode="json"),
        "groups": list(setting.step.group_sizes),
        "batch": setting.batch,
        "crop": setting.crop,
        "rounds": rounds,
        "provenance": {
            **provenance(rt),
            "processor": processor(rt.device),
            "instructions": torch.backends.cpu.get_cpu_capability(),
            "threads": torch.get_num_threads(),
        },
    }
    return Result(tuple(rows), facts, growth, setup)


def _part(
    part: str, setting: Setting, rounds: int, data: Path, device: torch.device, say: Say
) -> tuple[dict[str, Cost], dict[str, str]]:
    if part == "loader":
        return loader_cost(data, setting.crop, rounds).costs, {}
    if part == "evaluation":
        work, agreement = evaluation_work(setting)
        return side_by_side(work, device, rounds, say), agreement()
    if part == "constant":
        work, agreement = constant_work(setting)
        costs = side_by_side(work, device, rounds, say)
        return costs, {**agreement(), **_on_the_processor(costs)}
    if part == "launch":
        costs = side_by_side(launch_work(setting), device, rounds, say)
        return costs, {"the fastest launch": fastest_launch(costs)}
    if part == "losses":
        return side_by_side(losses_work(setting), device, rounds, say), {}
    work = update_work(setting)
    costs, facts = side_by_side(work, device, rounds, say), {}
    if part == "step":
        ceiling = costs[PLAIN].median / costs[BARE].median
        products, rate = product_rates(setting)
        facts = {
            "plain / bare network": f"{ceiling:.2f} x: an update without any overhead would be so much faster",
            **_rates(our_update(setting, cuda_graphs=False), costs[OURS], device, rate),
            **products,
        }
    return costs, facts


def fastest_launch(costs: Mapping[str, Cost]) -> str:
    """Which way to launch an update is the fastest, and from how many updates on its slower start comes back."""
    ours, name = costs[OURS], min(costs, key=lambda name: costs[name].median)
    gain = ours.median - costs[name].median
    if gain <= 0:
        return "as it is; runtime.compile and runtime.cuda_graphs stay as they are"
    switches = ["runtime.compile=true"] if name.endswith(COMPILED) else []
    switches += ["runtime.cuda_graphs=false"] if name.startswith(SINGLY) else []
    later = max(0.0, (costs[name].first or 0.0) - (ours.first or 0.0))
    told = f"{name}, with {' and '.join(switches)}: {gain:.4f} s less of {ours.median:.4f} s"
    return f"{told}; it starts {later:.0f} s later, so it is for steps with more updates than {round(later / gain)}"


def _on_the_processor(costs: Mapping[str, Cost]) -> dict[str, str]:
    """Processor time of every function, as a multiple of our version's."""
    ours = costs[OURS].processor or 1.0
    shown = (f"{n} {c.processor:.4f} ({c.processor / ours:.2f} x)" for n, c in costs.items() if c.processor is not None)
    return {"processor seconds, median": ", ".join(shown)}


def _rates(work: Callable[[], object], cost: Cost, device: torch.device, rate: float) -> dict[str, str]:
    """Floating point operations of an update, their rate, and the time that they would take at a convolution's `rate`.

    Of a known GPU, whose convolutions are too small to fill it, also the share of its matrix rate.
    """
    with FlopCounterMode(display=False) as counter:
        work()
    flops = counter.get_total_flops()
    fact = f"{flops / 1e12:.2f} TFLOP, {flops / cost.median / 1e12:.2f} TFLOP/s"
    peak = next((r for n, r in MATRIX_RATE.items() if n in processor(device)), None)
    share = "" if peak is None else f", {100 * flops / cost.median / peak:.0f} % of {peak / 1e12:.0f} TFLOP/s"
    limit = (
        f"{flops / rate:.4f} s at the rate of the best convolution; our update takes {cost.median * rate / flops:.2f} x"
    )
    return {"operations of an update": fact + share, "limit": limit}


def _ahead(rows: Sequence[Row], setting: Setting) -> str:
    """Whether one loader process is faster than the training step."""
    step = next(r.cost.median for r in rows if r.part == "step" and r.name == OURS)
    image = next(r.cost.median for r in rows if r.part == "loader" and r.name == OURS)
    need = setting.batch / step
    return f"{1 / image:.0f} images/s from one core, {need:.1f} taken by the step: {1 / image / need:.1f} x"


def measure_growth(setting: Setting, rounds: int, say: Say) -> dict[str, dict[int, Cost]]:
    """Measure our update with more classes, more later steps and more pixels, everything else as in the setting."""
    settings = {
        "classes": {n: replace(setting, step=step_of((n - 2, 1))) for n in CLASSES},
        "steps": {n: replace(setting, step=step_of((15, *[1] * n))) for n in BRANCHES},
        "pixels": {n: replace(setting, crop=n) for n in (round(setting.crop * s) for s in SIDES)},
    }
    device = setting.fast().device
    measured: dict[str, dict[int, Cost]] = {}
    for quantity, cases in settings.items():
        say(f"growth with the number of {quantity}")
        costs = side_by_side({str(n): our_update(s) for n, s in cases.items()}, device, rounds, say)
        measured[quantity] = {int(n): c for n, c in costs.items()}
    return measured


def step_of(sizes: Sequence[int]) -> Step:
    """The last step of groups of these sizes; here more than the 254 classes of an 8-bit mask are allowed."""
    ends = list(accumulate(sizes, initial=1))
    return Step(len(sizes) - 1, tuple(tuple(range(a, b)) for a, b in pairwise(ends)))


def processor(device: torch.device) -> str:
    """The name of the GPU, or else of the processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return "unknown"
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def setting_of(
    model: str, task: str, classes: int, step: int, batch: int, crop: int, device: Any, precision: Precision
) -> Setting:
    """Make a setting from names.

    Args:
        model: a published name, or a timm backbone.
        task: ``<first>-<increment>``.
        classes: of the data set, without background.
        step: from 1 on.
        batch: images at a time.
        crop: side in pixels.
        device: `auto`, `cpu` or `cuda`.
        precision: of our version and of the bare network.

    Raises:
        UserError: for a task that does not fit, or an unknown network.
    """
    known = {"pretrained": False}
    network = NetworkConfig.from_name(model, **known) if model in MODELS else NetworkConfig(backbone=model, **known)
    return Setting(network, TaskPlan.parse(task, classes)[step], batch, crop, device, precision)
