"""Notes on what a report cannot show, and why, in one sentence each."""

from __future__ import annotations

from collections.abc import Sequence

from barm.engine.monitor import PEAK
from barm.report.page.content import Report, RunContent
from barm.report.page.views import same_task
from barm.words import count, noun, verb

Notes = dict[str, tuple[str, ...]]


def notes(report: Report) -> Notes:
    """Notes by section. Those on images are part of the report."""
    runs, several = report.runs, len(report.runs) > 1
    found: Notes = {
        "scores": tuple(note for run in runs for note in _scores(run)),
        "compare": tuple(_other_task(run, runs[0]) for run in runs[1:] if run.scores and not same_task(run, runs[0])),
        "training": tuple(note for run in runs for note in _training(run, several)),
        "speed": _speed(runs),
    }
    return {**found, **report.notes}


def _scores(run: RunContent) -> list[str]:
    told = []
    if len(run.finished) < run.num_steps:
        told.append(
            f"{run.place}: {len(run.finished)} of {count(run.num_steps, 'steps')} {verb(len(run.finished), 'are')} "
            "trained; go on with `barm train --out RUN --resume`, and report anew."
        )
    missing = [str(i) for i in run.finished if i not in {s.step for s in run.scores}]
    if missing:
        steps = f"{noun(len(missing), 'steps')} {', '.join(missing)}"
        told.append(f"{run.place} has no scores of {steps}: imported steps have none; `barm evaluate` prints them.")
    return told


def _other_task(run: RunContent, first: RunContent) -> str:
    return (
        f"{run.label} learned another task ({run.task}) than {first.label} ({first.task}): its steps teach "
        "other classes, so there is no map of differences."
    )


def _training(run: RunContent, several: bool) -> list[str]:
    whose, steps = _whose(run, several), [str(step) for step in run.untrained]
    told = f"{noun(len(steps), 'steps').capitalize()} {', '.join(steps)}"
    were = verb(len(steps), "were")
    unread = [f"{whose}'s curves lack values: {run.unread}."] if run.unread else []
    if run.origin and steps:
        return [
            *unread,
            f"{told} {were} taken over from {run.origin}; the losses of that training are in the report of that run.",
        ]
    if not run.traces:
        return unread or [f"{whose} has no log of its training."]
    notes = [f"{told} {were} not trained in {run.label if several else 'this run'}: it has no losses of {_it(steps)}."]
    single = [t for t in run.traces if t.name == "loss" and len(t.values) < 2]
    one = [f"Of step {t.step} a single update was logged: no curve (see runtime.log_every)." for t in single]
    return [*unread, *(notes if steps else []), *one]


def _it(several: Sequence[object]) -> str:
    return "it" if len(several) == 1 else "them"


def _speed(runs: Sequence[RunContent]) -> tuple[str, ...]:
    logged = {t.name for run in runs for t in run.traces}
    if logged and PEAK not in logged:
        return ("The memory was not logged.",)
    return ()


def _whose(run: RunContent, several: bool) -> str:
    return run.label if several else "The run"
