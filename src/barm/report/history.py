"""Read the numbers of a run, finished or not, from the files in its folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w

from barm.data.palette import display_colours
from barm.engine.checkpoint.differences import settings, shown, to_table
from barm.engine.checkpoint.directory import COUNTS, METHOD, METRICS, RunDirectory
from barm.engine.config import RunConfig
from barm.engine.monitor import read_log, unread_log
from barm.engine.scores import read_scores
from barm.errors import UserError
from barm.escaping import command, names, place, placeless, places
from barm.methods import METHODS
from barm.reading import real
from barm.report.page.content import KnownClass, RunContent, Scores, Trace
from barm.report.results import task_title


def read_runs(paths: Sequence[Path]) -> tuple[RunContent, ...]:
    """Read the runs of one page, each with its own label. A folder that is given twice counts once.

    Raises:
        UserError: if one is no run or has no finished step, or if they have no class in common.
    """
    paths = list({real(path): path for path in reversed(paths)}.values())[::-1]
    runs = [read_run(path, label) for path, label in zip(paths, _labels(paths), strict=True)]
    first = runs[0]
    for run in runs[1:]:
        known, theirs = ([c.name for c in r.classes[1:]] for r in (first, run))
        if not set(known) & set(theirs):
            raise UserError(
                f"{run.path} and {first.path} have no class in common "
                f"({', '.join(theirs[:3])}; {', '.join(known[:3])}): "
                "give runs on the same data set, or write a report of each"
            )
    return _coloured(runs)


def read_run(path: Path, label: str) -> RunContent:
    """Read the numbers of one run.

    Raises:
        UserError: if it is no run, has no finished step, or a file of it is damaged.
    """
    run = RunDirectory(path)
    config, last = run.config(), run.last_step()
    finished = tuple(run.finished_steps())
    record = run.read(last, METHOD)
    try:
        content = RunContent(
            label=label,
            path=str(path),
            place=place(path),
            method=config.method.name,
            task=task_title(config),
            seed=config.seed,
            num_steps=int(record.get("num_steps", len(finished))),
            finished=finished,
            classes=_classes(record),
            scores=tuple(_scores(run, metrics) for metrics in read_scores(run)),
            traces=_traces(path),
            settings={name: shown(value) for name, value in settings(config).items()},
            config=tomli_w.dumps(placeless(to_table(config))),
            provenance=_plain(run.provenance()),
            command=_again(path, config),
            terms=METHODS[config.method.name].terms,
            unread=unread_log(path),
            origin=_origin(path),
        )
        return _coloured([content])[0]
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"{path}: a {METHOD} or {METRICS} is damaged ({error!r}): restore the file, or train the run anew"
        ) from None


def _labels(paths: Sequence[Path]) -> list[str]:
    """Labels of runs: their methods if they differ, else their folders' names, else their paths."""
    methods = [RunDirectory(path).config().method.name for path in paths]
    for candidates in (methods, [real(path).name for path in paths]):
        if len(set(candidates)) == len(paths):
            return candidates
    return places(paths)


def _classes(record: Mapping[str, Any]) -> tuple[KnownClass, ...]:
    step_of = {i: step for step, group in enumerate(record["groups"]) for i in group}
    return tuple(KnownClass(str(c["name"]), (0, 0, 0), step_of.get(c["id"], 0)) for c in record["classes"])


def _coloured(runs: Sequence[RunContent]) -> tuple[RunContent, ...]:
    """Give every class of the runs one colour, the same in all runs."""
    colours = display_colours(known.name for run in runs for known in run.classes)
    return tuple(
        replace(run, classes=tuple(replace(known, colour=colours[known.name]) for known in run.classes)) for run in runs
    )


def _scores(run: RunDirectory, metrics: Mapping[str, Any]) -> Scores:
    index = int(metrics["step"])
    counts = np.array(run.read(index, COUNTS), np.int64) if run.has(index, COUNTS) else None
    if counts is not None and len(counts) != len(metrics["class_iou"]):
        raise ValueError(f"step {index} has counts of {len(counts)} classes, scores of {len(metrics['class_iou'])}")
    return Scores(
        step=index,
        learned=tuple(metrics["learned"]),
        means=_measured(metrics["miou"]),
        average=None if metrics["average_miou"] is None else float(metrics["average_miou"]),
        lost=None if metrics["forgetting"] is None else float(metrics["forgetting"]),
        iou=_measured(metrics["class_iou"]),
        counts=counts,
    )


def _measured(values: Mapping[str, Any]) -> dict[str, float]:
    """Keep the scores that were measured, and leave out those that are None."""
    return {str(name): float(value) for name, value in values.items() if value is not None}


def _traces(path: Path) -> tuple[Trace, ...]:
    """Group the log by step and name, in the order in which they appear."""
    points: dict[tuple[int, str], list[tuple[int, float]]] = {}
    for row in read_log(path):
        points.setdefault((row.step, row.name), []).append((row.iteration, row.value))
    return tuple(
        Trace(step, name, tuple(i for i, _ in pairs), tuple(v for _, v in pairs))
        for (step, name), pairs in points.items()
    )


def _plain(provenance: Mapping[str, Any]) -> dict[str, str]:
    """Convert a record to text by name in plain words, without the classes, which are shown elsewhere."""
    found = dict[str, Any]()
    for name, value in provenance.items():
        if isinstance(value, Mapping):
            found |= {f"{name} {key}": v for key, v in value.items()}
        elif name != "classes":
            found[name] = value
    return {
        name.replace("_", " "): "; ".join(map(str, value)) if isinstance(value, list) else str(value)
        for name, value in found.items()
    }


def _again(path: Path, config: RunConfig) -> str:
    """The command that repeats the run."""
    whole = path if path.name not in ("", "..") else real(path)  # "." has no name
    target = whole.with_name(whole.name + "-again")
    recipe, out = ["--recipe", place(path / "config.toml")], ["--out", place(target)]
    record = RunDirectory(path).extension()
    if record is None:
        return command(["barm", "train", *recipe, *out])
    data = "" if config.data.root is None else place(config.data.root)
    words = [place(record["from"]), "--step", str(record["step"] - 1), "--data", data, "--classes"]
    others = [word for other in config.data.val for word in ("--val", place(other.root))]
    rest = command([*others, *recipe, "--seed", str(config.seed), *out])
    return f"{command(['barm', 'extend', *words])} {names(record['learned'])} {rest}"


def _origin(path: Path) -> str:
    """Place of the run that was extended, as `barm.escaping.place` gives it; empty for any other run."""
    record = RunDirectory(path).extension()
    return "" if record is None else place(record["from"])
