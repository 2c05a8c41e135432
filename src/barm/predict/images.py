"""Predict image files and write masks and overlays: find, check, then predict and write batch by batch."""

from __future__ import annotations

import json
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from PIL import Image

from barm.data.class_values import ClassValues, find_class_values
from barm.data.image_files import ImageFile, check_images, check_there, find_images
from barm.data.images import read_image
from barm.data.left_right import mirror_warning
from barm.errors import UserError, nearest
from barm.predict.model import Labels, Model, load
from barm.report.images import colour_mask, encoded, index_mask, overlay_image
from barm.writing import write_atomically

Kind = Literal["mask", "colour", "overlay"]
KINDS: tuple[Kind, ...] = get_args(Kind)
ENDINGS: dict[str, str] = {"mask": "_mask.png", "colour": "_colour.png", "overlay": "_overlay.jpg"}
THREADS = 4  # that read and write
AHEAD = 2  # batches that are read before, and written after, the one in work
Progress = Callable[[str, int], AbstractContextManager[Callable[[], None]]]


@dataclass(frozen=True)
class Prediction:
    """Result for one image.

    Attributes:
        image: its file.
        size: width and height in pixels.
        shares: of the image's area by class name, background too, the largest first; with `unsure` together 1.
        unsure: share of the area without a class that is probable enough.
        files: what was written, by kind.
    """

    image: Path
    size: tuple[int, int]
    shares: dict[str, float]
    files: dict[str, Path]
    unsure: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """The result in plain values for JSON."""
        return {
            "image": str(self.image),
            "size": list(self.size),
            "classes": {name: round(share, 6) for name, share in self.shares.items()},
            "unsure": round(self.unsure, 6),
            "files": {kind: str(path) for kind, path in self.files.items()},
        }


@dataclass(frozen=True)
class PredictOptions:
    """Options of the prediction and of the files that are written.

    Attributes:
        sizes: see `Model.predict`.
        flip: see `Model.predict`.
        classes: see `Model.predict`.
        sure: see `Model.predict`. Masks hold 255 there; other images show such pixels as background.
        batch: see `Model.predict`.
        write: kinds of files.
        ids: masks hold the data set's ids instead of channels.
        save_as: a ``classes.toml``, or a folder with one: masks hold the values or colours that it has for the classes.
        legend: overlays have one.
    """

    sizes: Sequence[float] = (1.0,)
    flip: bool = False
    classes: Sequence[str] | None = None
    batch: int = 8
    write: Sequence[str] = ("mask", "overlay")
    ids: bool = False
    legend: bool = True
    save_as: Path | str | None = None
    sure: float = 0.0

    def __post_init__(self) -> None:
        if self.sure and self.save_as is not None:
            raise UserError("masks of a file's values have no number for pixels without a sure class: leave one out")
        if self.ids and self.save_as is not None:
            raise UserError("masks hold either the data set's ids or the values of a file: give --ids or --save-as")
        if not self.write:
            raise UserError(f"nothing to write: name at least one of {', '.join(KINDS)}")
        for kind in self.write:
            if kind not in KINDS:
                raise UserError(
                    f"unknown kind of file '{kind}'{nearest(kind, KINDS) or '; known: ' + ', '.join(KINDS)}"
                )


def predict_files(
    run: Path | str | Model,
    images: Sequence[Path | str],
    out: Path | str | None = None,
    *,
    step: int | None = None,
    options: PredictOptions | None = None,
    refused: Callable[[str], None] | None = None,
    device: str | None = None,
    precision: str | None = None,
    progress: Progress | None = None,
    each: Callable[[Prediction], None] = lambda _: None,
    warn: Callable[[str], None] = warnings.warn,
) -> list[Prediction]:
    """Predict images and write the requested files. The memory needed does not depend on the number of images.

    Args:
        run: a run's folder, or a loaded model.
        images: files, folders (with all images below them) and patterns such as ``photos/**/*.jpg``. What a folder
            or a pattern finds keeps its sub-folder in `out`.
        out: folder of the results ``<name>_mask.png``, ``<name>_colour.png``, ``<name>_overlay.jpg``, and of
            ``classes.json``, which says what a mask's numbers mean; without it nothing is written.
        step: which step; the last by default.
        options: how, and what is written.
        refused: called with the error of each unusable image, while the others are predicted; without it one such image
            stops everything.
        device: device of the prediction; by default as the run was configured.
        precision: precision of the prediction; by default as the run was configured.
        progress: given a title and a number of images, shows how many are done; nothing by default.
        each: called with every result as soon as its files are written.
        warn: called with one line on a likely mistake.

    Returns:
        One result per image, in the order in which the images were found.

    Raises:
        UserError: nothing found, images that cannot be read (all of them are named, before any work), or two results
            of one name.
    """
    options, shows = options or PredictOptions(), progress or _silent
    target = None if out is None else Path(out)
    found = find_images(images, target)
    check_there(found, refused)
    values = None if options.save_as is None else find_class_values(Path(options.save_as))
    model = run if isinstance(run, Model) else load(run, step, device=device, precision=precision)
    model.shown(options.classes)
    model.check_sure(options.sure)
    masks = _written_masks(model, options.ids, values)
    mixed = mirror_warning(model.class_names[1:]) if options.flip else None
    if mixed is not None:
        warn(mixed)
    with shows("looking at the files", len(found)) as done:
        sound = check_images(found, refused, done)
    results: dict[Path, Prediction] = {}
    with shows("predicting", len(sound)) as done:
        for result in _stream(model, sound, target, options, masks):
            results[result.image] = result
            each(result)
            done()
    if target is not None and "mask" in options.write:
        _explain(target, model, masks)
    return [results[one.path] for one in found if one.path in results]


@contextmanager
def _silent(_title: str, _total: int) -> Iterator[Callable[[], None]]:
    yield lambda: None


class _Masks(NamedTuple):
    """How masks are written: a function of the channels, and what stands for each channel in its image."""

    image: Callable[[Labels], Image.Image]
    values: tuple[int | str, ...]


def _written_masks(model: Model, ids: bool, values: ClassValues | None) -> _Masks:
    if values is None:
        numbers = model.class_ids if ids else tuple(range(len(model.class_names)))
        return _Masks(lambda label: index_mask(label, model.colours, numbers), numbers)
    missing = values.missing(model.class_names)
    if missing:
        raise UserError(f"{values.path} has nothing for '{missing[0]}', which the network knows: add a line for it")
    written = tuple(values.written(values.value_of(name)) for name in model.class_names)
    return _Masks(
        lambda label: values.from_ids(label, model.class_names),
        written if values.colours else tuple(map(int, written)),
    )


def _stream(
    model: Model,
    sound: Sequence[tuple[ImageFile, tuple[int, int]]],
    target: Path | None,
    options: PredictOptions,
    masks: _Masks,
) -> Iterator[Prediction]:
    """Read, predict and write in batches of one size; reading and writing overlap with prediction."""
    batches = _batches(sound, options.batch)
    reading: deque[list[Future[Image.Image]]] = deque()
    writing: deque[list[Future[Prediction]]] = deque()
    with ThreadPoolExecutor(THREADS) as pool:
        try:
            for ahead in range(len(batches) + AHEAD):
                if ahead < len(batches):
                    reading.append([pool.submit(read_image, one.path) for one in batches[ahead]])
                if ahead < AHEAD:
                    continue
                batch = batches[ahead - AHEAD]
                images = [job.result() for job in reading.popleft()]
                labels = model.predict(
                    images,
                    sizes=options.sizes,
                    flip=options.flip,
                    classes=options.classes,
                    sure=options.sure,
                    batch=len(images),
                )
                parts = zip(batch, images, labels, strict=True)
                writing.append([pool.submit(_finish, model, *part, target, options, masks) for part in parts])
                if len(writing) > AHEAD:
                    yield from (job.result() for job in writing.popleft())
            yield from (job.result() for jobs in writing for job in jobs)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _batches(sound: Sequence[tuple[ImageFile, tuple[int, int]]], size: int) -> list[list[ImageFile]]:
    """Group images by size, in the order of each group's first image."""
    open_: dict[tuple[int, int], list[ImageFile]] = {}
    batches: list[list[ImageFile]] = []
    for one, shape in sound:
        batch = open_.get(shape)
        if batch is None or len(batch) >= size:
            batch = open_[shape] = []
            batches.append(batch)
        batch.append(one)
    return batches


def _finish(
    model: Model,
    one: ImageFile,
    image: Image.Image,
    label: Labels,
    target: Path | None,
    options: PredictOptions,
    masks: _Masks,
) -> Prediction:
    """Write an image's files and summarise its prediction."""
    areas = np.bincount(label.ravel(), minlength=256) / label.size
    counts = areas[: len(model.class_names)]
    present = sorted(np.flatnonzero(counts).tolist(), key=lambda c: -counts[c])
    shares = {model.class_names[c]: float(counts[c]) for c in present}
    files: dict[str, Path] = {}
    if target is not None:
        legend = {c: f"{model.class_names[c]} {percent(counts[c])}" for c in present if c} if options.legend else None
        for kind in options.write:
            path = files[kind] = target / one.name.parent / (one.name.name + ENDINGS[kind])
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, _content(kind, model, image, label, legend, masks), flush=False)
    return Prediction(one.path, image.size, shares, files, float(areas[len(counts) :].sum()))


def _content(
    kind: str, model: Model, image: Image.Image, label: Labels, legend: Mapping[int, str] | None, masks: _Masks
) -> bytes:
    if kind == "mask":
        return encoded(masks.image(label), "PNG")
    label = np.where(label < len(model.class_names), label, 0).astype(np.uint8)
    if kind == "colour":
        return encoded(colour_mask(label, model.display_colours), "PNG")
    return encoded(overlay_image(image, label, model.display_colours, legend), "JPEG", quality=92)


def percent(share: float) -> str:
    """Format a share: ``0.123`` -> ``12 %``; a share above 0 never reads 0 %."""
    return "<1 %" if 0 < share < 0.005 else f"{100 * share:.0f} %"


def _explain(target: Path, model: Model, masks: _Masks) -> None:
    """Write ``classes.json``, which explains the numbers or colours in the masks."""
    rows = [
        {"value": value, "name": name, "colour": colour, "display_colour": shown}
        for value, name, colour, shown in zip(
            masks.values, model.class_names, model.colours.tolist(), model.display_colours.tolist(), strict=True
        )
    ]
    target.mkdir(parents=True, exist_ok=True)
    write_atomically(target / "classes.json", (json.dumps(rows, indent=1) + "\n").encode())
