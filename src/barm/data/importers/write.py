"""Write what an importer read as a folder of images, masks and class names."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from barm.data.class_names import parse_classes
from barm.data.class_values import ORIGINAL, write_class_values
from barm.data.images import Probe, Unreadable, probe, turned
from barm.data.importers.annotations import Annotations, ImportOptions, Item, Painted
from barm.data.index import cores
from barm.data.palette import id_palette
from barm.data.progress import progress_bar
from barm.data.splits import divide
from barm.errors import UserError
from barm.labels import IGNORE
from barm.reading import short
from barm.words import count, verb

REPORT = "import.json"
FAULTS = (UserError, OSError, SyntaxError, ValueError, Image.DecompressionBombError)  # of files that cannot be used
SUFFIXES = {"JPEG": ".jpg", "MPO": ".jpg", "PNG": ".png", "WEBP": ".webp", "BMP": ".bmp", "TIFF": ".tif"}


@dataclass(frozen=True)
class ClassCount:
    """What was imported of one class.

    Attributes:
        name: of the class.
        objects: objects in the source; None where it knows pixels only.
        images: images that show it.
        pixels: pixels.
    """

    name: str
    objects: int | None
    images: int
    pixels: int


@dataclass(frozen=True)
class ImportReport:
    """What an import did.

    Attributes:
        source: where it came from.
        format: the importer's name.
        options: choices that were not the default.
        images: number of images per split; ``all`` where they are not divided yet.
        classes: counts per class, in the order of the ids.
        background: pixels that are background.
        ignored: pixels that are ignored.
        left_out: why something was left out, as often as it was.
        contested: images, and pixels, that objects of several classes cover.
        notes: what a user should know.
    """

    source: str
    format: str
    options: Mapping[str, str]
    images: Mapping[str, int]
    classes: tuple[ClassCount, ...]
    background: int
    ignored: int
    left_out: Mapping[str, int] = field(default_factory=dict)
    contested: tuple[int, int] = (0, 0)
    notes: tuple[str, ...] = ()


class Split(NamedTuple):
    """How images are divided where the source does not say it.

    Attributes:
        share: of the images that is held out for validation.
        group_by: a pattern whose match names the group of an image; a group is never divided.
    """

    share: float
    group_by: str = ""


class _Written(NamedTuple):
    """An item that was written, or why it was not."""

    ids: NDArray[np.int64] | None  # (256,): pixels per id
    objects: Mapping[int, int] = {}
    contested: int = 0
    why: str = ""
    because: str = ""
    turned: bool = False


def write_folder(
    annotations: Annotations, root: Path, options: ImportOptions, split: Split, *, link: bool
) -> dict[str, Any]:
    """Write images, masks, class names and, where nothing divides the images, lists of the splits.

    Everything is written beside `root` first, so that an import that was stopped leaves nothing there.

    Returns:
        The fields of the `ImportReport` that are known now.

    Raises:
        UserError: if `root` holds something, two images have one name, or nothing can be imported.
    """
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise UserError(f"{root} is there already: choose a new folder")
    _no_twins(annotations.items)
    names, table = _kept(annotations.classes, options)
    beside = root.with_name(f".{root.name}.{os.getpid()}.tmp")
    try:
        beside.mkdir(parents=True)
        written = _write_items(annotations.items, beside, table, link)
        done = [item for item, one in zip(annotations.items, written, strict=True) if one.ids is not None]
        if not done:
            reasons = [*annotations.left_out, *_reasons(annotations.items, written)]
            raise UserError(f"nothing to import: {'; '.join(reasons) or 'no image has an annotation'}")
        write_class_names(beside, names)
        if annotations.values:
            write_class_values(beside / ORIGINAL, _original(names, annotations.values))
        images = _write_lists(beside, done, split)
        if root.is_dir():
            root.rmdir()
        beside.replace(root)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    return {"images": images, **_counted(annotations, written, names)}


def write_class_names(root: Path, names: Sequence[str]) -> None:
    """Write ``classes.txt``, or ``classes.toml`` for names that it cannot hold."""
    text = "".join(f"{i}: {name}\n" for i, name in enumerate(names, 1))
    try:
        plain = parse_classes(text, root / "classes.txt") == tuple(names)
    except UserError:
        plain = False
    if plain:
        (root / "classes.txt").write_text(text, "utf-8")
    else:
        write_class_values(root / "classes.toml", {str(i): name for i, name in enumerate(("background", *names))})


def _kept(classes: Sequence[str], options: ImportOptions) -> tuple[tuple[str, ...], NDArray[np.uint8]]:
    """The names to keep, and the table from the importer's ids to theirs, ``(256,)``."""
    unknown = [name for name in options.classes if name not in classes]
    if unknown:
        raise UserError(f"no class '{unknown[0]}': the source has {', '.join(classes)}")
    names = options.classes or tuple(classes)
    if not names:
        raise UserError("the source names no class but background: expected at least one")
    table = np.full(256, IGNORE if options.rest == "ignore" else 0, np.uint8)
    table[0], table[IGNORE] = 0, IGNORE
    for i, name in enumerate(classes, 1):
        if name in names:
            table[i] = names.index(name) + 1
    return names, table


def _no_twins(items: Iterable[Item]) -> None:
    seen = dict[str, Item]()
    for item in items:
        name = _file_name(item)
        if name.lower() in seen:
            other = seen[name.lower()]
            raise UserError(
                f"two images are called '{name}' ({_where(other)}, {_where(item)}): masks are named like images, "
                "rename one"
            )
        seen[name.lower()] = item


def _where(item: Item) -> str:
    return str(item.image) if isinstance(item.image, Path) else item.name


def _file_name(item: Item) -> str:
    """The item's name in the new folder: below its split, without repeating it."""
    return f"{item.split}/{item.name}" if item.split else item.name


def _write_items(items: Sequence[Item], root: Path, table: NDArray[np.uint8], link: bool) -> list[_Written]:
    with progress_bar(len(items)) as bar, ThreadPoolExecutor(cores()) as pool:
        jobs = pool.map(lambda item: _write_item(item, root, table, link), items)
        return list(bar.track(jobs, total=len(items), description="importing"))


def _write_item(item: Item, root: Path, table: NDArray[np.uint8], link: bool) -> _Written:
    """Write an image and its mask, or say why that cannot be done."""
    name = _file_name(item)
    try:
        image = _place_image(item.image, root / "images" / name, link)
    except FAULTS as error:
        return _Written(None, why="images that cannot be read", because=short(error))
    try:
        facts = probe(image)
        painted = _painted(item, facts)
        mask = Image.fromarray(table[painted.ids])
    except FAULTS as error:
        image.unlink()
        if isinstance(error, Unreadable):
            return _Written(None, why="images that cannot be used", because=f"it {error.what}")
        return _Written(None, why="images without a mask that fits", because=short(error))
    sideways = mask.size != facts.size
    mask = turned(mask, facts.orientation) if sideways else mask
    target = root / "masks" / f"{name}.png"
    target.parent.mkdir(parents=True, exist_ok=True)
    mask.putpalette(id_palette().tobytes())
    mask.save(target)
    objects = Counter[int]()
    for i, number in painted.objects.items():
        objects[int(table[i])] += number
    return _Written(np.array(mask.histogram()[:256]), objects, painted.contested, turned=sideways)


def _painted(item: Item, facts: Probe) -> Painted:
    """Paint an item's mask in the size of its image, stored or upright."""
    sizes = (facts.size, facts.stored)
    if item.size not in (None, *sizes):  # any number may stand there: nothing is painted in it
        raise UserError("{}x{} pixels were annotated, the image has {}x{}".format(*item.size or (), *facts.size))
    painted = item.paint(item.size or facts.size)
    if painted.ids.shape not in [size[::-1] for size in sizes]:
        raise UserError("the mask is {1}x{0}, the image {2}x{3}".format(*painted.ids.shape, *facts.size))
    return painted


def _place_image(image: Path | Callable[[], bytes], target: Path, link: bool) -> Path:
    """Copy an image, or link to it, without changing it; returns its new file."""
    content = b"" if isinstance(image, Path) else image()
    suffix = image.suffix.lower() if isinstance(image, Path) else _suffix(content)
    target = target.with_name(target.name + suffix)
    target.parent.mkdir(parents=True, exist_ok=True)
    if not isinstance(image, Path):
        target.write_bytes(content)
    elif not (link and _linked(image, target)):
        shutil.copyfile(image, target)
    return target


def _linked(image: Path, target: Path) -> bool:
    """Make a hard link; false where the disk has none, or is another one."""
    try:
        os.link(image.resolve(), target)
    except OSError:
        return False
    return True


def _suffix(content: bytes) -> str:
    try:
        with Image.open(io.BytesIO(content)) as image:
            return SUFFIXES[image.format or ""] if image.format in SUFFIXES else f".{(image.format or '').lower()}"
    except UnidentifiedImageError:
        raise UserError("what is embedded is no image") from None


def _write_lists(root: Path, items: Sequence[Item], split: Split) -> dict[str, int]:
    """Write train.txt and val.txt where the source does not divide the images; numbers of images per split."""
    named = Counter(item.split or "" for item in items)
    if set(named) == {""}:
        names = [item.name for item in items]
        parts = divide(names, split.share, split.group_by)
        for part, members in parts.items():
            (root / f"{part}.txt").write_text("".join(f"{name}\n" for name in members), "utf-8")
        return {part: len(members) for part, members in parts.items()}
    if "" in named:
        lost = next(item for item in items if item.split is None)
        raise UserError(f"{_where(lost)} belongs to no split, but other images do: put it in a folder train or val")
    return dict(named)


def _original(names: Sequence[str], values: Mapping[str, str]) -> dict[str, str]:
    """The source's values or colours of the classes that were kept, with a value for background and ignored."""
    known = {**{value: name for name, value in values.items()}}
    ordered = sorted(known.items(), key=lambda entry: names.index(entry[1]) if entry[1] in names else -1)
    kept = {value: name for value, name in ordered if name in (*names, "background", "ignore")}
    if "background" not in kept.values():
        free = "#000000" if any(value.startswith("#") for value in kept) else "0"
        if free not in kept:
            kept = {free: "background", **kept}
    return kept


def _counted(annotations: Annotations, written: Sequence[_Written], names: Sequence[str]) -> dict[str, Any]:
    """Counts per class, and everything that was left out."""
    done = [one for one in written if one.ids is not None]
    pixels = np.sum([one.ids for one in done if one.ids is not None], axis=0)
    images = np.sum([one.ids > 0 for one in done if one.ids is not None], axis=0)
    objects = Counter[int]()
    for one in done:
        objects.update(one.objects)
    left_out = Counter(annotations.left_out)
    left_out.update(_reasons(annotations.items, written))
    crossed = [one.contested for one in done if one.contested]
    notes = list(annotations.notes)
    if number := sum(one.turned for one in done):
        notes.append(f"{count(number, 'masks')} {verb(number, 'were')} turned as EXIF data turn their images")
    return {
        "classes": tuple(
            ClassCount(name, objects[i] if objects else None, int(images[i]), int(pixels[i]))
            for i, name in enumerate(names, 1)
        ),
        "background": int(pixels[0]),
        "ignored": int(pixels[IGNORE]),
        "left_out": dict(left_out),
        "contested": (len(crossed), sum(crossed)),
        "notes": tuple(notes),
    }


def _reasons(items: Sequence[Item], written: Sequence[_Written]) -> dict[str, int]:
    """Why images were not written, each with an example, and how many."""
    groups = defaultdict[str, list[tuple[Item, _Written]]](list)
    for item, one in zip(items, written, strict=True):
        if one.why:
            groups[one.why].append((item, one))
    return {f"{why}, such as {_where(group[0][0])}: {group[0][1].because}": len(group) for why, group in groups.items()}


def write_report(root: Path, report: Mapping[str, Any]) -> None:
    """Store what an import did in its folder."""
    (root / REPORT).write_text(json.dumps(report, indent=1, ensure_ascii=False), "utf-8")
