"""The training log as the template shows it: a chart per logged value, speed and memory per step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

from barm.engine.monitor import PEAK, RATE
from barm.report.page.charts import Chart, Series, line_chart, thinned
from barm.report.page.content import RunContent, Trace

POINTS = 240  # of a curve; more are averaged


class Speed(NamedTuple):
    """What a step's training cost: updates, pictures per second, and most memory in MB (0 where it was not logged)."""

    label: str
    step: int
    updates: int
    rate: float
    memory: float


def curves(runs: Sequence[RunContent]) -> list[Chart]:
    """A chart per logged value with all runs; the rate of learning last, speed and memory not among them."""
    names = dict.fromkeys(t.name for run in runs for t in run.traces if t.name not in (RATE, PEAK))
    ordered = sorted(names, key=lambda name: (name != "loss", name == "lr"))
    last = max((t.step for run in runs for t in run.traces), default=0)
    charts = []
    for name in ordered:
        series = [_series(run, name, slot) for slot, run in enumerate(runs)]
        if not any(s.xs for s in series):
            continue
        charts.append(
            line_chart(
                "learning rate" if name == "lr" else name,
                [s for s in series if s.xs],
                x_label="step",
                x_ticks=[(s + 0.5, str(s)) for s in range(last + 1)],
                x_range=(0, last + 1),
                rules=range(1, last + 1),
                digits=None,
            )
        )
    return charts


def _series(run: RunContent, name: str, slot: int) -> Series:
    """All steps after one another, each as wide as the others."""
    xs: list[float] = []
    ys: list[float] = []
    told: list[str] = []
    ends = {step: max(t.updates[-1] for t in run.traces if t.step == step) for step in {t.step for t in run.traces}}
    traces = [t for t in run.traces if t.name == name]
    breaks = set()
    for trace in sorted(traces, key=lambda t: t.step):
        pairs = [(u, v) for u, v in zip(trace.updates, trace.values, strict=True) if math.isfinite(v)]
        places, values = thinned([u for u, _ in pairs], [v for _, v in pairs], max(12, POINTS // len(traces)))
        breaks.add(len(xs))
        xs += [trace.step + place / ends[trace.step] for place in places]
        ys += values
        told += [f"step {trace.step}, update {place:g}" for place in places]
    return Series(run.label, xs, ys, told, slot, frozenset(breaks))


def speed(runs: Sequence[RunContent]) -> list[Speed]:
    """Per run and step, from the log."""
    rows = []
    for run in runs:
        steps = {(t.step, t.name): t for t in run.traces}
        for (step, name), trace in sorted(steps.items(), key=lambda item: item[0][0]):
            if name == RATE:
                memory: Trace | None = steps.get((step, PEAK))
                rows.append(
                    Speed(
                        run.label, step, trace.updates[-1], median(trace.values), max(memory.values) if memory else 0.0
                    )
                )
    return rows
