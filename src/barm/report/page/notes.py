"""What a report cannot show, and why: a sentence each."""

from __future__ import annotations

from collections.abc import Sequence

from barm.engine.monitor import PEAK
from barm.report.page.content import Report, RunContent
from barm.report.page.views import same_task

Notes = dict[str, tuple[str, ...]]


def notes(report: Report) -> Notes:
    """By section; those of the pictures come with the report."""
    runs, several = report.runs, len(report.runs) > 1
    found: Notes = {
        "scores": tuple(note for run in runs for note in _scores(run)),
        "compare": tuple(_other_task(run, runs[0]) for run in runs[1:] if run.scores and not same_task(run, runs[0])),
        "training": tuple(f"{_whose(run, several)} has no log of its training." for run in runs if not run.traces),
        "speed": _speed(runs),
    }
    return {**found, **report.notes}


def _scores(run: RunContent) -> list[str]:
    told = []
    if len(run.finished) < run.num_steps:
        told.append(
            f"{run.path}: {len(run.finished)} of {run.num_steps} steps are trained; "
            "go on with `barm train --resume`, and report anew."
        )
    missing = [str(i) for i in run.finished if i not in {s.step for s in run.scores}]
    if missing:
        steps = f"step{'s' if len(missing) > 1 else ''} {', '.join(missing)}"
        told.append(f"{run.path} has no scores of {steps}: imported steps have none; `barm evaluate` prints them.")
    return told


def _other_task(run: RunContent, first: RunContent) -> str:
    return (
        f"{run.label} learned another task ({run.task}) than {first.label} ({first.task}): its steps teach "
        "other classes, so there is no map of differences."
    )


def _speed(runs: Sequence[RunContent]) -> tuple[str, ...]:
    logged = {t.name for run in runs for t in run.traces}
    if logged and PEAK not in logged:
        return ("The memory was not logged.",)
    return ()


def _whose(run: RunContent, several: bool) -> str:
    return run.label if several else "The run"
