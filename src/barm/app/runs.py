"""The runs behind the page: what each step taught, networks loaded when asked for, labels kept."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from barm.app.pictures import Limits, Picture, prepare
from barm.data.palette import display_colours
from barm.data.sources import open_source
from barm.data.sources.base import Source
from barm.engine.checkpoint.directory import METHOD, RunDirectory
from barm.engine.config import PlaceConfig
from barm.engine.runtime import Runtime
from barm.engine.scores import read_scores
from barm.errors import UserError
from barm.methods import METHODS
from barm.predict.model import Model, load
from barm.reading import real

K = TypeVar("K")
V = TypeVar("V")
Pixels = NDArray[np.uint8]
MODELS, LABELS = 4, 64  # how many are kept: networks (hundreds of MB), label maps (at most 1 MB by default)
LOOKED_AT, EXAMPLES = 60, 6


@dataclass(frozen=True)
class ShownStep:
    """One finished step.

    Attributes:
        step: its index.
        learned: names of the classes that it taught.
        names: by channel, background first.
        colours: by channel, ``(C, 3)`` uint8.
        miou: over all classes known, in 0..1; None where not all of them were measured.
    """

    step: int
    learned: tuple[str, ...]
    names: tuple[str, ...]
    colours: Pixels
    miou: float | None


@dataclass(frozen=True)
class Run:
    """A run as it is shown.

    Attributes:
        path: its folder; never shown.
        name: of the folder.
        method: as people write it, such as ``BARM``.
        steps: finished ones, ascending.
        planned: number of steps of the task.
    """

    path: Path
    name: str
    method: str
    steps: tuple[ShownStep, ...]
    planned: int

    def at(self, step: int) -> ShownStep:
        """The newest finished step up to `step`, or the first there is."""
        return next((x for x in reversed(self.steps) if x.step <= step), self.steps[0])


class Viewer:
    """Answers for pictures, from any thread: one network runs at a time, and never twice for the same question.

    Args:
        paths: folders of one or two runs.

    Attributes:
        runs: what is shown of them.
        predictions: how often a network ran.

    Raises:
        UserError: if one is no run, or has no finished step that can be loaded.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.runs = open_runs(paths)
        self.predictions = 0
        self._lock = threading.Lock()
        self._models: OrderedDict[tuple[int, int], Model] = OrderedDict()
        self._labels: OrderedDict[tuple[str, int, int], Pixels] = OrderedDict()
        self._runtimes = [Runtime(RunDirectory(run.path).config().runtime) for run in self.runs]
        for index, run in enumerate(self.runs):
            self._model(index, run.steps[-1].step)

    def label(self, picture: Picture, run: int, step: int) -> Pixels:
        """Channels of a finished step's network, ``(H, W)`` uint8."""
        key = (picture.key, run, step)
        with self._lock:
            if key not in self._labels:
                self._labels[key] = self._model(run, step).predict(picture.image)
                self.predictions += 1
            return _recent(self._labels, key, LABELS)

    def _model(self, run: int, step: int) -> Model:
        key = (run, step)
        if key not in self._models:
            self._models[key] = load(self.runs[run].path, step, self._runtimes[run])
        return _recent(self._models, key, MODELS)


def _recent(kept: OrderedDict[K, V], key: K, most: int) -> V:
    """Mark as used last, and let go what has not been used for longest."""
    kept.move_to_end(key)
    while len(kept) > most:
        kept.popitem(last=False)
    return kept[key]


def open_runs(paths: Sequence[Path]) -> tuple[Run, ...]:
    """Read what the page tells of the runs, without their networks.

    Equal names of runs get their parent's in front; a class has one colour in all runs, and no other class has it.
    """
    runs = [_open_run(path) for path in paths]
    if len({run.name for run in runs}) < len(runs):
        runs = [replace(r, name=f"{r.path.parent.name}/{r.name}") for r in runs]
    colours = display_colours(name for run in runs for step in run.steps for name in step.names)
    return tuple(replace(run, steps=tuple(_coloured(x, colours) for x in run.steps)) for run in runs)


def _coloured(shown: ShownStep, colours: Mapping[str, tuple[int, ...]]) -> ShownStep:
    return replace(shown, colours=np.array([colours[name] for name in shown.names], np.uint8))


def _open_run(path: Path) -> Run:
    path = real(path)
    directory = RunDirectory(path)
    config = directory.config()
    directory.last_step()  # complains if there is none
    miou = {metrics["step"]: metrics["miou"]["all"] for metrics in read_scores(directory)}
    steps = tuple(_read_step(directory, step, miou.get(step)) for step in directory.finished_steps())
    about = (METHODS[config.method.name].__doc__ or "").strip().splitlines()[0]
    title = about.split(":")[0].split("(")[0].strip()
    return Run(path, path.name, title, steps, int(directory.read(steps[-1].step, METHOD)["num_steps"]))


def _read_step(directory: RunDirectory, step: int, miou: float | None) -> ShownStep:
    about = directory.read(step, METHOD)
    names = {c["id"]: c["name"] for c in about["classes"]}
    return ShownStep(
        step,
        tuple(names[i] for i in about["groups"][-1]),
        tuple(names.values()),
        np.array([c["colour"] for c in about["classes"]], np.uint8),
        miou,
    )


def find_examples(run: Run, limits: Limits, data: Path | None = None) -> list[Picture]:
    """Pictures of the validation split that show the most classes, of the first step and of later ones.

    Args:
        run: whose data.
        limits: as for uploads; what they refuse is left out.
        data: the data set's folder; by default where the run's configuration says.

    Returns:
        At most 6 pictures; none if the data are not there.
    """
    config = RunDirectory(run.path).config().data
    own = [] if config.root is None else [PlaceConfig(root=config.root, layout=config.layout, names=config.names)]
    places = [*own, *config.val] if data is None else [PlaceConfig(root=data)]
    candidates = list[tuple[tuple[int, int], Source, int]]()
    for place in places:
        try:
            source = open_source(place.layout, place.root, "val", place.names)
            chosen = range(0, len(source), max(1, len(source) // LOOKED_AT))
            candidates += [(_telling(source, i, run), source, i) for i in chosen]
        except (UserError, OSError):
            if data is not None:
                raise
    best = sorted(candidates, key=lambda c: c[0], reverse=True)[:EXAMPLES]
    pictures = [_example(source, i, limits) for _, source, i in best]
    return [p for p in pictures if p is not None]


def _example(source: Source, i: int, limits: Limits) -> Picture | None:
    try:
        image = source[i].image
        return prepare(image, limits) if image.width * image.height <= limits.pixels else None
    except (UserError, OSError):
        return None


def _telling(source: Source, i: int, run: Run) -> tuple[int, int]:
    present = {source.class_names[c] for c in source.classes_in(i) if c < len(source.class_names)}
    first = len(present.intersection(run.steps[0].learned))
    return min(first, len(present) - first), len(present)
