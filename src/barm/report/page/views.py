"""Numbers in the form that the template needs: headline, scores, heat maps, confusion."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from barm.escaping import told_apart
from barm.report.page.charts import NARROW, WIDE, Chart, Series, line_chart
from barm.report.page.colours import DASHES, LEVELS, SERIES, level
from barm.report.page.content import KnownClass, RunContent, Scores
from barm.report.tables import percent
from barm.words import count, listed

GROUPS = {"all": "all classes", "old": "first classes", "new": "later classes"}
COLUMNS = {"all": "all", "old": "old", "new": "new", "average": "average", "lost": "lost"}
MOST = 40  # classes of a confusion matrix
MISTAKES = 6
UNMEASURED = "–"
LEAST_SCALE = 0.1  # a difference map does not stretch less than this over its colours


class Cell(NamedTuple):
    """A coloured cell: its text, its CSS class for the colour, and its text on hover."""

    text: str = ""
    style: str = "none"
    told: str = ""


class Row(NamedTuple):
    """A class with its cells."""

    known: KnownClass
    first: bool  # of its step
    cells: tuple[Cell, ...]


class Heat(NamedTuple):
    """A table of coloured cells, classes by steps."""

    title: str
    steps: tuple[tuple[int, str], ...]
    rows: tuple[Row, ...]
    scale: float  # of differences; 0 for a map of values


def signed(value: float) -> str:
    """Format a difference of fractions in percentage points: ``+1.2``, ``−0.3``, ``±0.0``."""
    text = f"{100 * abs(value):.1f}"
    return f"±{text}" if float(text) == 0 else f"{'+' if value > 0 else '−'}{text}"


def named_scores(scores: Scores, *, first: bool) -> dict[str, float | None]:
    """Scores by the names of `COLUMNS`, as fractions. Nothing is lost after the first step."""
    means = {name: scores.means.get(name) for name in ("all", "old", "new")}
    return {**means, "average": scores.average, "lost": None if first else scores.lost}


def last_scores(run: RunContent) -> dict[str, float | None]:
    """Scores of the last evaluated step."""
    return named_scores(run.scores[-1], first=len(run.scores) == 1)


def sentence(run: RunContent) -> str:
    """Describe the outcome of a run in a sentence."""
    first, last = run.scores[0], run.scores[-1]
    known = sum(1 for c in run.classes[1:] if c.step <= last.step)
    after = "It" if run.single else f"After step {last.step} it"
    told = f"{after} knows {count(known, 'classes')}"
    if "all" in last.means:
        told += f" at {percent(last.means['all'])} % mIoU"
    if last.step > first.step and "old" in last.means and "old" in first.means:
        change = last.means["old"] - first.means["old"]
        told += f"; the classes of step {first.step} went from"
        told += f" {percent(first.means['old'])} to {percent(last.means['old'])} % ({signed(change)} points)"
    elif "old" not in last.means:
        told += "; the first step's are not measured (no image labels them)"
    return told + (f", those learned since stand at {percent(last.means['new'])} %." if "new" in last.means else ".")


def unmeasured(run: RunContent) -> list[str]:
    """Known classes that the masks do not show, so that they have no score after the last evaluated step."""
    last = run.scores[-1]
    return [c.name for c in run.classes if c.step <= last.step and c.name not in last.iou]


def has_dashes(heats: Sequence[Heat]) -> bool:
    """Whether a class was not measured after a step."""
    return any(cell.text == UNMEASURED for h in heats for row in h.rows for cell in row.cells)


def columns(runs: Sequence[RunContent]) -> dict[str, str]:
    """Columns of the score table. If no run has a second step, there is only the mean over all classes."""
    grown = any(len(run.scores) > 1 for run in runs)
    return COLUMNS if grown else {"all": COLUMNS["all"]}


def comparison(runs: Sequence[RunContent]) -> list[dict[str, Any]]:
    """One line per run: scores after its last step, their difference to the first run, and which are the best."""
    with_scores = [run for run in runs if run.scores]
    lines: list[dict[str, Any]] = []
    every = [last_scores(run) for run in with_scores]
    for run, scores in zip(with_scores, every, strict=True):
        cells = []
        for name in columns(runs):
            value, reference = scores[name], every[0][name]
            known = [s[name] for s in every if s[name] is not None]
            best = (min if name == "lost" else max)(known, default=None)  # type: ignore[type-var]
            shows = run is not with_scores[0] and value is not None and reference is not None
            cells.append(
                {
                    "text": percent(value),
                    "difference": signed(value - reference)
                    if shows and value is not None and reference is not None
                    else "",
                    "best": value is not None and value == best and len(every) > 1,
                }
            )
        slot = len(lines) % SERIES
        lines.append({"run": run, "cells": cells, "slot": slot, "dash": DASHES[slot]})
    return lines


def cards(run: RunContent) -> list[dict[str, str]]:
    """The numbers of the headline."""
    first, last = run.scores[0], run.scores[-1]
    grown = last.step > first.step
    known = sum(1 for c in run.classes[1:] if c.step <= last.step and c.name in last.iou)
    when = f"over {count(known, 'classes')}" + (" and background" if run.classes[0].name in last.iou else "")
    when = when if run.single else f"after step {last.step} of {run.num_steps - 1}"
    made = [("mIoU, all classes", percent(last.means.get("all")), "%", when)]
    if grown and "old" in last.means and "old" in first.means:
        change = signed(last.means["old"] - first.means["old"])
        made.append(("first classes", percent(last.means["old"]), "%", f"{change} since step {first.step}"))
    if "new" in last.means:
        learned = sum(1 for c in run.classes if c.step > 0)
        made.append(
            ("later classes", percent(last.means["new"]), "%", f"{count(learned, 'classes')} learned after step 0")
        )
    if grown:
        made.append(("average", percent(last.average), "%", "of all over the steps"))
        made.append(("lost", percent(last.lost), "points", "mean over the known classes"))
    return [dict(zip(("name", "value", "unit", "hint"), card, strict=True)) for card in made]


def share(permille: int) -> str:
    """Format a cell: whole percent; empty below a half, or if a class was not known."""
    return "" if permille < 5 else f"{permille / 10:.0f}"


def miou_charts(runs: Sequence[RunContent]) -> list[Chart]:
    """Charts of mIoU. For one run old, new and all share a chart; for several each has a chart with all runs."""
    if len(runs) == 1:
        there = {group for s in runs[0].scores for group in s.means}
        lines = [(told, runs[0], group) for group, told in GROUPS.items() if group in there]
        return [_miou_chart("mIoU (%)", lines, WIDE)] if _is_line(runs, there) else []
    return [
        _miou_chart(f"mIoU of {told} (%)", [(r.label, r, group) for r in runs], NARROW)
        for group, told in GROUPS.items()
        if _is_line(runs, {group})
    ]


def _is_line(runs: Sequence[RunContent], groups: Collection[str]) -> bool:
    """Whether a run has one of the means after two steps, since a single value is no curve."""
    return any(sum(group in s.means for s in run.scores) > 1 for run in runs for group in groups)


def _miou_chart(title: str, lines: Sequence[tuple[str, RunContent, str]], size: tuple[int, int]) -> Chart:
    series = []
    for slot, (name, run, group) in enumerate(lines):
        known = [s for s in run.scores if group in s.means]
        series.append(
            Series(
                name,
                [s.step for s in known],
                [100 * s.means[group] for s in known],
                [f"after step {s.step}" for s in known],
                slot,
            )
        )
    series = [s for s in series if s.xs]
    steps = sorted({s.step for _, run, _ in lines for s in run.scores})
    ticks = [(s, str(s)) for s in steps[:: -(-len(steps) // 12)]]
    return line_chart(
        title,
        series,
        x_label="after step",
        x_ticks=ticks,
        x_range=(steps[0], steps[-1]),
        y_range=(0, 100),
        size=size,
    )


def heat(run: RunContent) -> Heat:
    """IoU of every class after every step, and with several steps the drop from its best."""
    steps = tuple((s.step, listed(s.learned)) for s in run.scores)
    rows = []
    for place, known in enumerate(run.classes):
        values = [s.iou.get(known.name) for s in run.scores]
        cells = [_iou_cell(v, known, step) for v, (step, _) in zip(values, steps, strict=True)]
        lost = [_lost_cell(known.name, values)] if len(steps) > 1 else []
        rows.append(Row(known, _begins(run.classes, place), (*cells, *lost)))
    return Heat(run.label, steps, tuple(rows), 0.0)


def _begins(classes: Sequence[KnownClass], place: int) -> bool:
    return place > 0 and classes[place].step != classes[place - 1].step


def _iou_cell(value: float | None, known: KnownClass, step: int) -> Cell:
    if value is None and known.step <= step:
        return Cell(UNMEASURED, told=f"{known.name} was not measured after step {step}")
    if value is None:
        return Cell(told=f"{known.name} is not known after step {step}")
    return Cell(f"{100 * value:.0f}", f"v{level(value)}", f"{known.name} after step {step}: IoU {percent(value)} %")


def _lost_cell(name: str, values: Sequence[float | None]) -> Cell:
    known = [v for v in values if v is not None]
    if len(known) < 2 or values[-1] is None:
        return Cell()
    lost = max(known[:-1]) - known[-1]
    told = f"{name}: {signed(-lost)} points from its best earlier IoU to the last"
    return Cell(signed(-lost), "lost" if lost > 0.05 else "kept", told)


def same_task(one: RunContent, other: RunContent) -> bool:
    """Whether two runs learn the same classes at the same steps, as far as both went."""
    steps = min(one.finished[-1], other.finished[-1])
    mine, theirs = ({(c.name, c.step) for c in run.classes if c.step <= steps} for run in (one, other))
    return mine == theirs


def differences(runs: Sequence[RunContent]) -> list[Heat]:
    """IoU of every later run minus the first run's, for classes that both know, all on one scale."""
    if not runs:
        return []
    reference = runs[0]
    tables = [(run, _difference(run, reference)) for run in runs[1:] if same_task(run, reference)]
    scale = max([LEAST_SCALE, *(abs(value) for _, table in tables for value in table.values())])
    return [_difference_heat(run, reference, table, scale) for run, table in tables]


def _difference(run: RunContent, reference: RunContent) -> dict[tuple[int, str], float]:
    theirs = {s.step: s.iou for s in reference.scores}
    return {
        (s.step, name): value - theirs[s.step][name]
        for s in run.scores
        for name, value in s.iou.items()
        if name in theirs.get(s.step, {})
    }


def _difference_heat(
    run: RunContent, reference: RunContent, table: Mapping[tuple[int, str], float], scale: float
) -> Heat:
    steps = [s for s in run.scores if any(step == s.step for step, _ in table)]
    rows = []
    for place, known in enumerate(run.classes):
        cells = [_difference_cell(table.get((s.step, known.name)), known.name, s.step, scale) for s in steps]
        rows.append(Row(known, _begins(run.classes, place), tuple(cells)))
    title = f"{run.label} − {reference.label}"
    return Heat(title, tuple((s.step, listed(s.learned)) for s in steps), tuple(rows), scale)


def _difference_cell(value: float | None, name: str, step: int, scale: float) -> Cell:
    if value is None:
        return Cell()
    text = f"{100 * value:+.0f}".replace("-", "−").replace("+0", "0").replace("−0", "0")
    style = f"{'p' if value >= 0 else 'n'}{level(abs(value), high=scale)}"
    return Cell(text, style, f"{name} after step {step}: {signed(value)} points")


class Confusion(NamedTuple):
    """A confusion matrix: shares of a class's pixels in per mille by step, -1 if a class was not known yet.

    Attributes:
        label: of the run.
        classes: the columns.
        rows: those of them that the masks show.
        steps: the cells by step, row by row.
        last: the last step.
        mistakes: the largest shares after it, as truth, prediction, fraction.
        left_out: number of classes without a column.
    """

    label: str
    classes: tuple[KnownClass, ...]
    rows: tuple[KnownClass, ...]
    steps: Mapping[int, list[list[int]]]
    last: int
    mistakes: tuple[tuple[KnownClass, KnownClass, float], ...]
    left_out: int

    @property
    def silent(self) -> list[str]:
        """Names of the columns that have no row."""
        return [known.name for known in self.classes if known not in self.rows]

    def style(self, value: int) -> str:
        """CSS class of a cell."""
        return "none" if value < 0 else f"k{level(value / 1000)}"


def confusion(run: RunContent) -> Confusion | None:
    """Confusion matrices of all steps that have counts; None if none has."""
    counts = {s.step: s.counts for s in run.scores if s.counts is not None}
    if not counts:
        return None
    last = max(counts)
    shares = {step: _shares(c) for step, c in counts.items()}
    number = len(counts[last])
    wrong = counts[last].sum(1) - np.diag(counts[last])
    kept = sorted(np.argsort(-wrong, kind="stable")[:MOST].tolist())
    shown = [i for i in kept if any(c[i].any() for c in counts.values() if i < len(c))]
    steps = {}
    for step, share in shares.items():
        full = np.full((number, number), -1, np.int64)
        full[: len(share), : len(share)] = (1000 * share).round()
        steps[step] = full[np.ix_(shown, kept)].tolist()
    off = shares[last] * (1 - np.eye(number))
    order = np.argsort(-off, axis=None)[:MISTAKES]
    places = [divmod(int(i), number) for i in order]
    mistakes = tuple((run.classes[i], run.classes[j], float(off[i, j])) for i, j in places if off[i, j] > 0.005)
    columns, rows = (tuple(run.classes[i] for i in places) for places in (kept, shown))
    return Confusion(run.label, columns, rows, steps, last, mistakes, number - len(kept))


def _shares(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Divide every row by its sum. A class without pixels gets zeros."""
    return np.asarray(counts / np.maximum(counts.sum(1, keepdims=True), 1))


def colour_bar() -> list[str]:
    """CSS classes of the cells of the scale below a map."""
    return [f"v{i}" for i in range(0, LEVELS + 1, 2)]


def differing_settings(runs: Sequence[RunContent]) -> list[tuple[str, list[str]]]:
    """Settings and versions that differ between runs, with the value of each."""
    tables = [{**run.settings, **run.provenance} for run in runs]
    names = dict.fromkeys(name for table in tables for name in table)
    rows = [(name, [table.get(name, "–") for table in tables]) for name in names]
    return [(name, told_apart(values)) for name, values in rows if len(set(values)) > 1]


def common_facts(runs: Sequence[RunContent]) -> dict[str, str]:
    """Seed, versions and machine that all runs share. The rest is in `differing_settings`."""
    first, *others = [{"seed": str(run.seed), **run.provenance} for run in runs]
    return {name: value for name, value in first.items() if all(o.get(name) == value for o in others)}
