"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from shutil import get_terminal_size
from typing import Any

from rich import box
from rich.table import Table

from barm.engine.scores import unmeasured
from barm.escaping import markup
from barm.words import count

FIXED = 46  # characters of all other columns
LEAST, LEARNED = 8, 48  # what was learned: below the one left out, never wider than the other
Metrics = Mapping[str, Any]
NAMED = 8  # classes that a sentence names


def percent(value: float | None) -> str:
    """Format a fraction as percent: ``0.7004`` -> ``70.0``; a dash for None."""
    return "–" if value is None else f"{100 * value:.1f}"


def left_out(names: Sequence[str]) -> str:
    """Say which classes are in no mean, and what that means; empty if there are none.

    >>> left_out(["background"])
    'No mean includes background, which the masks do not show: a pixel given to it counts against its true class.'
    """
    if not names:
        return ""
    given = "it" if len(names) == 1 else "one of them"
    shown = "which the masks do not show"
    return f"No mean includes {named(names)}, {shown}: a pixel given to {given} counts against its true class."


def left_out_by(silent: Mapping[str, Sequence[str]]) -> list[str]:
    """`left_out` of several tasks or runs by their names: one sentence if all lack the same classes, else one of each.

    >>> [line[:31] for line in left_out_by({"one": [], "other": ["cat"]})]
    ['other: no mean includes cat, wh']
    """
    told = {name: left_out(classes) for name, classes in silent.items()}
    if len(set(told.values())) == 1:
        return [line for line in set(told.values()) if line]
    return [f"{name}: {line[0].lower()}{line[1:]}" for name, line in told.items() if line]


def with_background(silent: Iterable[Sequence[str]]) -> str:
    """Words that add background to the old classes if it is measured, by the unmeasured classes of tasks or runs."""
    lacking = ["background" in classes for classes in silent]
    if not any(lacking):
        return " and background"
    return "" if all(lacking) else ", and background where the masks show it"


def named(names: Sequence[str]) -> str:
    """Join names to an enumeration; of many the first `NAMED`, and the number of the others.

    >>> named(["cat"]), named(["cat", "dog"])
    ('cat', 'cat and dog')
    """
    more = len(names) - NAMED
    *first, last = [*names[:NAMED], count(more, "others")] if more > 1 else names
    return f"{', '.join(first)} and {last}" if first else last


def _caption(silent: Sequence[str], *, first: bool) -> str:
    """What the columns of `steps_table` mean, and which classes are in no mean."""
    background = "" if "background" in silent else ", background too"
    told = (
        f"mIoU in percent: the mean of all classes that the masks show{background}"
        if first
        else f"""mIoU in percent. old: step 0's classes{background};
new: learned later; average: of 'all' so far; lost: forgetting"""
    )
    return f"{told}\n{left_out(silent)}".strip()


def steps_table(title: str, runs: Mapping[str, Sequence[Metrics]]) -> Table:
    """mIoU after every step of one or more runs: old, new and all classes; one row per step and run.

    If only first steps are shown, there is only the mean over all classes.
    """
    first = all(m["step"] == 0 for metrics in runs.values() for m in metrics)
    columns = ("all",) if first else ("old", "new", "all", "average", "lost")
    table = Table(title=markup(title), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("step", justify="right", no_wrap=True, min_width=4)
    method = max(map(len, runs)) if len(runs) > 1 else 0
    room = min(LEARNED, get_terminal_size().columns - FIXED - (method + 2 if method else 0))
    if room >= LEAST:
        table.add_column("learned", max_width=room, overflow="ellipsis", no_wrap=True)
    if method:
        table.add_column("method", no_wrap=True, min_width=method)
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True, min_width=max(5, len(name)))
    longest = max(len(metrics) for metrics in runs.values())
    for index in range(longest):
        for position, (name, metrics) in enumerate(runs.items()):
            if index >= len(metrics):
                continue
            m = metrics[index]
            label = [markup(name)] if len(runs) > 1 else []
            head = [str(m["step"]), markup(", ".join(m["learned"]))] if position == 0 else ["", ""]
            head = head if room >= LEAST else head[:1]
            table.add_row(*head, *label, *_scores(m, columns), end_section=len(runs) > 1 and position == len(runs) - 1)
    silent = dict.fromkeys(name for metrics in runs.values() for name in unmeasured(metrics[-1]))
    table.caption = markup(_caption(list(silent), first=first))
    table.caption_justify = "left"
    return table


def _scores(m: Metrics, columns: Sequence[str]) -> list[str]:
    values = {"new": None, **m["miou"], "average": m["average_miou"], "lost": m["forgetting"]}
    return [percent(values[name]) for name in columns]


def details_lines(found: Mapping[str, Any]) -> list[str]:
    """Sentences on what `barm.engine.details` found."""
    width = count(found["border_width"], "pixels")
    near, far = (percent(found[key]) for key in ("border_miou", "inner_miou"))
    lines = [f"mIoU at most {width} from another class {near}, elsewhere {far}"]
    pairs = [f"{p['truth']} as {p['prediction']} {percent(p['share'])}" for p in found["confused"]]
    lines += [f"Most confused, in percent of the true class's pixels: {', '.join(pairs)}"] if pairs else []
    if "bins" in found:
        pixels = sum(b["pixels"] for b in found["bins"])
        right = sum(b["pixels"] * b["accuracy"] for b in found["bins"]) / max(pixels, 1)
        told = f"probability of the predicted class {percent(found['mean_probability'])} on average"
        error = percent(found["calibration_error"])
        lines.append(f"Calibration: {told}, right {percent(right)}; expected calibration error {error}")
    return lines


def classes_table(m: Metrics) -> Table:
    """IoU and accuracy per class after one step."""
    table = Table(title=f"step {m['step']}, per class", title_justify="left")
    table.add_column("class")
    table.add_column("IoU", justify="right")
    table.add_column("accuracy", justify="right")
    for name, iou in m["class_iou"].items():
        table.add_row(markup(name), percent(iou), percent(m["class_accuracy"][name]))
    return table
