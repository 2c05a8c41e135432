"""The training log in the form that the template needs: a chart per logged value, speed and memory per step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

from barm.engine.monitor import PEAK, RATE
from barm.report.page.charts import Chart, Series, line_chart, thinned
from barm.report.page.content import RunContent, Trace

POINTS = 240  # of a curve; more are averaged
ENGINE = {
    "loss": "What is minimised: the sum of the terms, each with its weight.",
    "lr": "Of the newest head; other parts of the network have their own.",
}  # what the engine logs beside the method's terms


class Speed(NamedTuple):
    """Training cost of a step: updates, images per second, and peak memory in MB (0 if it was not logged)."""

    label: str
    step: int
    updates: int
    rate: float
    memory: float


def curves(runs: Sequence[RunContent]) -> list[Chart]:
    """One chart per logged value with all runs, the learning rate last, without speed and memory.

    Steps without a log are left out, and so is a value that was logged only once.
    """
    names = dict.fromkeys(t.name for run in runs for t in run.traces if t.name not in (RATE, PEAK))
    ordered = sorted(names, key=lambda name: (name != "loss", name == "lr"))
    steps = sorted({t.step for run in runs for t in run.traces})
    if not steps:
        return []
    several = len(steps) > 1
    ends = {step: max(t.updates[-1] for run in runs for t in run.traces if t.step == step) for step in steps}
    first, last = (steps[0], steps[-1] + 1) if several else (0, ends[steps[0]])
    charts = []
    for name in ordered:
        series = [_series(run, name, slot, several) for slot, run in enumerate(runs)]
        if not any(len(s.xs) > 1 for s in series):
            continue
        charts.append(
            line_chart(
                "learning rate" if name == "lr" else name,
                [s for s in series if s.xs],
                x_label="step" if several else f"update of step {steps[0]}" if steps[0] else "update",
                x_ticks=[(s + 0.5, str(s)) for s in range(first, last)] if several else None,
                x_range=(first, last),
                rules=range(first + 1, last) if several else (),
                digits=None,
                subtitle=" ".join(dict.fromkeys(_explanation(run, name) for run in runs)).strip(),
            )
        )
    return charts


def _explanation(run: RunContent, name: str) -> str:
    """Explain a logged value. The method explains its terms, the engine the others."""
    return ENGINE.get(name) or run.terms.get(name, "")


def _series(run: RunContent, name: str, slot: int, several: bool) -> Series:
    """Concatenate all steps, each of equal width; a single step is drawn by its updates."""
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
        xs += [trace.step + place / ends[trace.step] if several else place for place in places]
        ys += values
        told += [f"step {trace.step}, update {place:g}" if several else f"update {place:g}" for place in places]
    return Series(run.label, xs, ys, told, slot, frozenset(breaks))


def speed(runs: Sequence[RunContent]) -> list[Speed]:
    """Training cost per run and step, from the log."""
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
