"""The state behind the page: uploads within limits, runs and their steps, and caches of networks and labels."""

from __future__ import annotations

import hashlib
import math
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from barm.data.base import Source
from barm.data.images import SMALLEST, Unreadable, open_image, to_rgb, upright
from barm.data.palette import display_colours
from barm.data.sources import open_source
from barm.engine.checkpoint.directory import METHOD, RunDirectory
from barm.engine.config import PlaceConfig
from barm.engine.runtime import Runtime
from barm.engine.scores import read_scores
from barm.errors import UserError
from barm.methods import METHODS
from barm.predict.model import Model, load
from barm.reading import real
from barm.words import count

K = TypeVar("K")
V = TypeVar("V")
Pixels = NDArray[np.uint8]
MODELS, LABELS = 4, 64  # how many are kept: networks (hundreds of MB), label maps (at most 1 MB by default)
LOOKED_AT, EXAMPLES = 60, 6
REMARKS = {"white": "Its transparent parts were laid on white.", "deep": "Its deep grey was scaled to 8 bits."}
BOMB = 178_000_000  # Pillow refuses a little more than this by itself


@dataclass(frozen=True)
class ShownStep:
    """One finished step.

    Attributes:
        step: its index.
        learned: names of the classes that it added.
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
    """A run as the page shows it.

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
        """The newest finished step up to `step`, or else the first finished one."""
        return next((x for x in reversed(self.steps) if x.step <= step), self.steps[0])


class Viewer:
    """Predict for images from any thread: one network runs at a time, and never twice for the same image.

    Args:
        paths: folders of one or two runs.

    Attributes:
        runs: the runs as they are shown.
        predictions: number of times a network ran.

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

    def label(self, shown: ShownImage, run: int, step: int) -> Pixels:
        """Channels of a finished step's network, ``(H, W)`` uint8."""
        key = (shown.key, run, step)
        with self._lock:
            if key not in self._labels:
                self._labels[key] = self._model(run, step).predict(shown.image)
                self.predictions += 1
            return _recent(self._labels, key, LABELS)

    def _model(self, run: int, step: int) -> Model:
        key = (run, step)
        if key not in self._models:
            self._models[key] = load(self.runs[run].path, step, self._runtimes[run])
        return _recent(self._models, key, MODELS)


def _recent(kept: OrderedDict[K, V], key: K, most: int) -> V:
    """Mark an entry as used last, and drop those that have not been used for longest."""
    kept.move_to_end(key)
    while len(kept) > most:
        kept.popitem(last=False)
    return kept[key]


def open_runs(paths: Sequence[Path]) -> tuple[Run, ...]:
    """Read what the page shows of the runs, without loading their networks.

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
    record = (METHODS[config.method.name].__doc__ or "").strip().splitlines()[0]
    title = record.split(":")[0].split("(")[0].strip()
    return Run(path, path.name, title, steps, int(directory.read(steps[-1].step, METHOD)["num_steps"]))


def _read_step(directory: RunDirectory, step: int, miou: float | None) -> ShownStep:
    record = directory.read(step, METHOD)
    names = {c["id"]: c["name"] for c in record["classes"]}
    return ShownStep(
        step,
        tuple(names[i] for i in record["groups"][-1]),
        tuple(names.values()),
        np.array([c["colour"] for c in record["classes"]], np.uint8),
        miou,
    )


def find_examples(run: Run, limits: Limits, data: Path | None = None) -> list[ShownImage]:
    """Images of the validation split that show the most classes, of the first step and of later ones.

    Args:
        run: the run whose data are used.
        limits: as for uploads; what they refuse is left out.
        data: the data set's folder; by default where the run's configuration says.

    Returns:
        At most 6 images; none if the data are not there.
    """
    config = RunDirectory(run.path).config().data
    own = [] if config.root is None else [PlaceConfig(root=config.root, layout=config.layout, names=config.names)]
    places = [*own, *config.val] if data is None else [PlaceConfig(root=data)]
    candidates = list[tuple[tuple[int, int], Source, int]]()
    for place in places:
        try:
            source = open_source(place.layout, place.root, "val", place.names)
            chosen = range(0, len(source), max(1, len(source) // LOOKED_AT))
            candidates += [(_variety(source, i, run), source, i) for i in chosen]
        except (UserError, OSError):
            if data is not None:
                raise
    best = sorted(candidates, key=lambda c: c[0], reverse=True)[:EXAMPLES]
    examples = [_example(source, i, limits) for _, source, i in best]
    return [p for p in examples if p is not None]


def _example(source: Source, i: int, limits: Limits) -> ShownImage | None:
    try:
        image = source[i].image
        return prepare(image, limits) if image.width * image.height <= limits.pixels else None
    except (UserError, OSError):
        return None


def _variety(source: Source, i: int, run: Run) -> tuple[int, int]:
    present = {source.class_names[c] for c in source.classes_in(i) if c < len(source.class_names)}
    first = len(present.intersection(run.steps[0].learned))
    return min(first, len(present) - first), len(present)


class Refused(UserError):
    """An image that is refused. The message is for the page and names no file of this machine."""


@dataclass(frozen=True)
class Limits:
    """Limits of an upload.

    Attributes:
        megabytes: of the file, in 2**20 bytes.
        pixels: of the image as stored; more is refused before anything is decoded.
        shrink_to: pixels that the network is given; larger images are scaled down, and the page says so.
    """

    megabytes: float = 20
    pixels: int = 20_000_000
    shrink_to: int = 1_000_000


@dataclass(frozen=True)
class ShownImage:
    """An image as the network is given it.

    Attributes:
        pixels: ``(H, W, 3)`` uint8.
        key: equal for equal pixels.
        remarks: sentences on what was done to the file's image.
    """

    pixels: Pixels
    key: str
    remarks: tuple[str, ...] = ()

    @property
    def image(self) -> Image.Image:
        """The pixels as a PIL image."""
        return Image.fromarray(self.pixels)


def read_upload(path: Path, limits: Limits) -> ShownImage:
    """Read a file of unknown origin.

    Args:
        path: the file; its content decides the format, not its name.
        limits: limits of an upload.

    Raises:
        Refused: if it is too large, too small, damaged, or none of `barm.data.images.FORMATS`.
    """
    if not path.is_file():
        raise Refused("This is no file. Give a JPEG, PNG, WebP, GIF, BMP or TIFF file.")
    size = path.stat().st_size
    if size > limits.megabytes * 2**20:
        raise Refused(
            f"This file has {size / 2**20:.1f} MB; at most {limits.megabytes:g} MB are taken. Save it smaller, or "
            "start `barm serve` with a larger --max-upload-mb."
        )
    try:
        with open_image(path) as image:
            _check_pixels(image.size, limits)
            return prepare(image, limits)
    except Refused:
        raise
    except Image.DecompressionBombError:
        raise _too_large("more than 178,000,000", limits) from None
    except Exception:  # a damaged file makes decoders fail in any way
        raise Refused(
            "This file cannot be read as an image: it is damaged or of another kind. Give a JPEG, PNG, WebP, GIF, "
            "BMP or TIFF file."
        ) from None


def prepare(image: Image.Image, limits: Limits) -> ShownImage:
    """Convert to upright 8-bit RGB of at most ``limits.shrink_to`` pixels, with remarks on what was changed."""
    remarks = []
    if getattr(image, "is_animated", False):
        remarks.append(f"Only the first of its {count(getattr(image, 'n_frames', 0), 'frames')} is looked at.")
        image.seek(0)
    try:
        rgb, changes = to_rgb(upright(image)[0], image.format)
    except Unreadable as error:
        raise Refused(f"This image {error.what}: {error.remedy}.") from None
    small = _shrunk(rgb, limits.shrink_to)
    remarks += [REMARKS[change] for change in changes if change in REMARKS]
    if small.size != rgb.size:
        remarks.append(
            f"Scaled from {rgb.width} x {rgb.height} to {small.width} x {small.height} pixels for the network."
        )
    if min(small.size) < SMALLEST:
        scaled = f", scaled {small.width} x {small.height}" if small.size != rgb.size else ""
        raise Refused(
            f"This image has {rgb.width} x {rgb.height} pixels{scaled}; expected at least {SMALLEST} on each side."
        )
    pixels = np.asarray(small)
    return ShownImage(pixels, hashlib.sha256(str(pixels.shape).encode() + pixels.tobytes()).hexdigest(), tuple(remarks))


def _check_pixels(size: tuple[int, int], limits: Limits) -> None:
    if size[0] * size[1] > limits.pixels:
        raise _too_large(f"{size[0]} x {size[1]} = {size[0] * size[1]:,}", limits)


def _too_large(found: str, limits: Limits) -> Refused:
    return Refused(
        f"This image has {found} pixels; at most {limits.pixels:,} are taken. Scale it down, or start "
        "`barm serve` with a larger --max-pixels."
    )


def _shrunk(image: Image.Image, pixels: int) -> Image.Image:
    factor = math.sqrt(pixels / (image.width * image.height))
    if factor >= 1:
        return image
    size = max(1, int(image.width * factor)), max(1, int(image.height * factor))
    return image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
