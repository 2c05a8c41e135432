"""Scores of finished runs, read from their folders or from a stored comparison."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from barm.engine.checkpoint.differences import settings
from barm.engine.checkpoint.directory import IMAGES, METHOD, METRICS, RunDirectory
from barm.engine.checkpoint.images import Images
from barm.engine.config import RunConfig
from barm.engine.scores import read_scores, unmeasured
from barm.errors import UserError
from barm.escaping import placeless, places
from barm.reading import read_json, real, short
from barm.words import count, listed

COMPARED = ("data", "model", "method", "base", "increment", "evaluation")


@dataclass(frozen=True)
class Result:
    """One run's values for the comparison.

    Attributes:
        path: its folder; of several results as `barm.escaping.places` has it.
        method: its name.
        task: with the setting, such as ``15-1 overlap``.
        seed: of the run.
        order: of the classes (0: the data set's own).
        steps: mIoU over the classes seen after each step, fractions.
        scores: of the last step by the names in `SCORES`, fractions; None where there is no such class.
        provenance: versions, machine and commit that the run was made with.
        settings: other settings that decide its result; runs with different settings are not repetitions of each other.
        unmeasured: classes that no image shows on which it was measured; they are in no mean.
        title: the task, short; empty where that is short enough.
        images: digest of what it was trained and measured on; empty if nobody recorded it.
    """

    path: str
    method: str
    task: str
    seed: int
    order: int
    steps: tuple[float, ...]
    scores: Mapping[str, float | None]
    provenance: Mapping[str, Any]
    settings: Mapping[str, Any] = field(default_factory=dict)
    unmeasured: tuple[str, ...] = ()
    title: str = ""
    images: str = ""


def read_result(path: Path) -> Result:
    """Read the scores of a finished run.

    Raises:
        UserError: if it is not a run, or not all of its steps are trained and evaluated.
    """
    run = RunDirectory(path)
    config = run.config()
    finished = [i for i in run.finished_steps() if run.has(i, METRICS)]
    stored = [run.read(i, METRICS) for i in finished]
    if not stored or len(stored) < run.read(finished[-1], METHOD).get("num_steps", 0):
        raise UserError(
            f"{path} is not finished ({count(len(stored), 'steps')} trained): "
            f"go on with `barm train --out {path} --resume`"
        )
    try:
        metrics = read_scores(run)
        silent = [name for m in metrics if m["miou"]["all"] is None for name in unmeasured(m) if name != "background"]
        named, curve = _named(metrics), tuple(m["miou"]["all"] for m in metrics)
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{path}: a {METRICS} is damaged ({error} is missing): restore the file, or train the run anew"
        ) from None
    if len(metrics) < len(stored):
        raise UserError(
            f"{path}: a step was measured on other images than its last one, as older versions of `barm extend` left "
            "it: extend it anew"
        )
    if silent:
        raise UserError(
            f"{path} was measured without labels of '{silent[0]}': extend it anew with --val DIR, a data set "
            "that labels the old classes"
        )
    return Result(
        path=str(path),
        method=config.method.name,
        task=task_name(config),
        seed=config.seed,
        order=config.task.order,
        steps=curve,
        scores=named,
        provenance=run.provenance(),
        settings=settings(config, COMPARED),
        unmeasured=tuple(unmeasured(metrics[-1])),
        title=task_title(config),
        images=digest_of_images(run.read(0, IMAGES)) if run.has(0, IMAGES) else "",
    )


def digest_of_images(record: Images) -> str:
    """A digest of the images of a run's first step (`barm.engine.checkpoint.images.images_of`)."""
    told = {name: record.get(name) for name in ("train", "measured")}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


def task_name(config: RunConfig) -> str:
    """A task with its setting, such as ``15-1 overlap``."""
    groups = " / ".join(",".join(g) for g in config.task.groups or ())
    return f"{config.task.name or groups} {config.task.setting}"


def task_title(config: RunConfig) -> str:
    """A task for a title: steps with many classes are given by their number."""
    groups = " / ".join(listed(group) for group in config.task.groups or ())
    return f"{config.task.name or groups} {config.task.setting}"


def _named(metrics: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """Scores of the last step by the names in `SCORES`."""
    last = metrics[-1]
    return {
        "old": last["miou"]["old"],
        "new": last["miou"].get("new"),
        "all": last["miou"]["all"],
        "average": last["average_miou"],
        "lost": last["forgetting"] if len(metrics) > 1 else None,
    }


def read_results(paths: Sequence[Path]) -> list[Result]:
    """Read the scores of several runs. A folder that is given twice counts once.

    Args:
        paths: folders of runs, or ``.json`` files as `write_comparison` writes them. Beside a file, all settings are
            given without the places of folders, as a file has them, and a run that stands in several counts once.
    """
    once = list({real(path): path for path in reversed(paths)}.values())[::-1]
    stored = [path for path in once if path.suffix == ".json" and not path.is_dir()]
    results = [r for path in once for r in (_read_stored(path) if path in stored else [read_result(path)])]
    if stored:
        results = _once(replace(result, settings=placeless(result.settings)) for result in results)
    return [
        replace(result, path=place) for result, place in zip(results, places([r.path for r in results]), strict=True)
    ]


def _once(results: Iterable[Result]) -> list[Result]:
    """The results without those that differ from another in the folder, the versions and the machine alone."""
    kept = list[Result]()
    for result in results:
        same = (replace(result, path=other.path, provenance=other.provenance) == other for other in kept)
        if not any(same):
            kept.append(result)
    return kept


def _read_stored(path: Path) -> list[Result]:
    """Read the runs of a ``compare.json``.

    Raises:
        UserError: if it is none.
    """
    try:
        table = read_json(path)
        runs = table["runs"] if isinstance(table, dict) else None
        results = TypeAdapter(list[Result]).validate_python(runs)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path} is no comparison ({short(error)}): give a compare.json, or folders of runs") from None
    return [replace(result, settings=_complete(result.settings)) for result in results]


def _complete(stored: Mapping[str, Any]) -> Mapping[str, Any]:
    """Settings of an older version with those that it did not have, as they are by default."""
    table: dict[str, Any] = {"task": {"name": "offline"}}
    for key, value in stored.items():
        *names, last = key.split(".")
        place = table
        for name in names:
            place = place.setdefault(name, {})
        place[last] = value
    try:
        return {**settings(RunConfig.model_validate(table), COMPARED), **stored}
    except (ValueError, UserError):  # of a version whose settings had other names
        return stored
