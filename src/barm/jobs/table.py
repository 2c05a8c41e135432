"""The runs of a grid as they stand, for a terminal, a log file or a script."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from barm.engine.monitor import is_live
from barm.escaping import markup
from barm.jobs.plan import Places, Plan, read_plan
from barm.jobs.states import OVER, RunView, step_of
from barm.words import count

COLOURS = {"finished": "green", "running": "cyan", "failed": "red", "cancelled": "yellow"}
ORDER = ("finished", "running", "queued", "waiting", "failed", "cancelled")
SHOWN = 30  # runs in a table that is drawn again and again


def status_table(out: Path, views: Sequence[RunView]) -> Table:
    """A row for every run; below them, how many there are of each state."""
    plan, places, now = read_plan(Places(out)), Places(out), time.time()
    table = Table(caption=summary(views), caption_justify="left")
    for name in ("method", "task", "seed", "state", "step", "minutes", "where"):
        table.add_column(name, justify="right" if name in ("seed", "minutes") else "left")
    for view in views:
        run, seconds = view.run, view.seconds(now)
        order = f" order {run.order}" if run.order else ""
        table.add_row(
            run.method,
            f"{run.task} {run.setting}{order}",
            str(run.seed),
            Text(view.status, COLOURS.get(view.status, "")),
            step_of(view, places),
            f"{seconds / 60:.1f}" if seconds else "",
            markup(where(view, plan)),
        )
    return table


def summary(views: Sequence[RunView]) -> str:
    """How many runs there are of each state."""
    numbers = Counter(view.status for view in views)
    parts = [f"{numbers[status]} {status}" for status in ORDER if numbers[status]]
    return f"{count(len(views), 'runs')}: {', '.join(parts)}"


def where(view: RunView, plan: Plan) -> str:
    """The machine, the GPU and the job of a run that lives, and why it is pending."""
    if view.submission is None or view.status not in ("running", "queued"):
        return ""
    parts = [view.state.host] if view.state is not None and view.status == "running" else []
    if plan.devices:
        parts.append(f"GPU {plan.devices[view.submission.slot % len(plan.devices)]}")
    job = f"job {view.submission.job}"
    return ", ".join([*parts, f"{job}: {view.note.partition(':')[0]}" if view.note else job])


def remarks(views: Sequence[RunView]) -> list[str]:
    """What else is to be said below the table, a line each: where the cluster did not answer, or takes no more jobs."""
    silent = [f"{v.note}; its runs are shown as last known, and none is submitted" for v in views if v.is_unknown]
    refused = [f"{v.note}; the runs that wait are submitted later" for v in views if v.status == "waiting" and v.note]
    return list(dict.fromkeys((*silent, *refused)))


def as_json(out: Path, views: Sequence[RunView]) -> list[dict[str, Any]]:
    """The runs for a script."""
    plan, places, now = read_plan(Places(out)), Places(out), time.time()
    return [
        {
            **view.run.model_dump(include={"name", "method", "task", "setting", "order", "seed"}),
            "state": view.status,
            "step": step_of(view, places),
            "minutes": round(view.seconds(now) / 60, 3),
            "where": where(view, plan),
            "note": view.note or None,
            "failures": view.failures,
            "why": view.why(places) if view.status == "failed" else None,
            "log": str(places.of(view.run.name, ".log")),
        }
        for view in views
    ]


@contextmanager
def watched(out: Path, quiet: bool) -> Iterator[Callable[[list[RunView]], None]]:
    """A function that shows the runs on stderr: a table that changes, or a line for every change in a log file."""
    console = Console(stderr=True, quiet=quiet, emoji=False)
    if quiet or not is_live(console):
        yield _changes(console, Places(out))
        return
    with Live(console=console, auto_refresh=False, transient=True) as live:

        def show(views: list[RunView]) -> None:
            shown = [view for view in views if view.status not in (*OVER, "waiting")][:SHOWN]
            live.update(status_table(out, shown or views[:SHOWN]), refresh=True)

        yield show


def _changes(console: Console, places: Places) -> Callable[[list[RunView]], None]:
    """A function that prints a line for every run whose state is another than before."""
    before: dict[str, str] = {}
    told: list[str] = []

    def line(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    def show(views: list[RunView]) -> None:
        for view in views:
            name, status = view.run.name, view.status
            if before.get(name, "waiting") != status:
                why = f": {view.why(places)}" if status == "failed" else ""
                line(f"[{sum(view.is_over for view in views)}/{len(views)}] {name}: {status}{why}")
            before[name] = status
        now = remarks(views)
        for text in (text for text in now if text not in told):
            line(text)
        told[:] = now

    return show
