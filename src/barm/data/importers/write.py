"""Write what an importer read as a folder of images, masks and class names."""

from __future__ import annotations

import io
import os
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from barm.data.at_once import room_for
from barm.data.class_values import ORIGINAL, write_class_names, write_class_values
from barm.data.images import Unreadable, open_image, probe
from barm.data.importers.annotations import Annotations, ImportOptions, Item
from barm.data.importers.drawn import upright_mask
from barm.data.importers.kept import keeping, kept_classes
from barm.data.importers.names import check_names, divided_anew, file_name, no_twins
from barm.data.importers.report import ImportReport, Written, counted, empty, hidden, reasons, unseen, write_report
from barm.data.importers.source_classes import source_classes
from barm.data.index import cores
from barm.data.new_folder import new_folder
from barm.data.palette import id_palette
from barm.data.progress import progress_bar
from barm.data.splits import divide, write_lists
from barm.errors import UserError
from barm.reading import short

FAULTS = (UserError, OSError, SyntaxError, ValueError, Image.DecompressionBombError)  # of files that cannot be used
SUFFIXES = {"JPEG": ".jpg", "MPO": ".jpg", "PNG": ".png", "WEBP": ".webp", "BMP": ".bmp", "TIFF": ".tif"}


class Split(NamedTuple):
    """How images are divided where the source does not say it.

    Attributes:
        share: of the images that is held out for validation.
        group_by: a pattern whose match names the group of an image; a group is never divided.
    """

    share: float
    group_by: str = ""


class Origin(NamedTuple):
    """What was imported.

    Attributes:
        source: where it came from.
        format: the importer's name.
        options: choices that were not the default.
    """

    source: str
    format: str
    options: Mapping[str, object]


def write_folder(
    annotations: Annotations, root: Path, options: ImportOptions, split: Split, origin: Origin, *, link: bool
) -> ImportReport:
    """Write images, masks, class names, a report and, where nothing divides the images, lists of the splits.

    Everything is written into a hidden folder first, so that an import that was stopped leaves nothing at `root`.

    Args:
        annotations: what an importer read.
        root: a new folder, or an empty one.
        options: choices.
        split: how images are divided.
        origin: for the report.
        link: make hard links to the images.

    Raises:
        UserError: if `root` holds something, a name cannot be used, or nothing can be imported.
        Ambiguous: if a mask can be painted in several ways.
    """
    check_names(annotations.items)
    items, notes = divided_anew(annotations.items)
    no_twins(items)
    annotations = replace(annotations, items=items, notes=(*annotations.notes, *notes))
    with new_folder(root) as beside:
        report = _write(annotations, beside, options, split, origin, link)
        write_report(beside, report)
    return report


def _write(
    annotations: Annotations, root: Path, options: ImportOptions, split: Split, origin: Origin, link: bool
) -> ImportReport:
    """Write everything but the report."""
    names, table = kept_classes(annotations.classes, options)
    annotations = _keeping(annotations, names, options)
    written = _write_items(annotations.items, root, table, options, link)
    done = [item for item, one in zip(annotations.items, written, strict=True) if one.ids is not None]
    if not done:
        why = [*annotations.left_out, *reasons(annotations.items, written)]
        raise UserError(f"nothing to import: {'; '.join(why) or 'no image has an annotation'}")
    write_class_names(root, names)
    values, notes = source_classes(names, annotations.values) if annotations.values else ({}, ())
    if values:
        write_class_values(root / ORIGINAL, values)
    annotations = replace(annotations, notes=(*annotations.notes, *notes))
    images = _write_lists(root, done, split)
    counts = counted(annotations, written, names)
    warnings = (*unseen(annotations.items, written), *hidden(counts["classes"]), *empty(images))
    if not any(each.pixels for each in counts["classes"]):
        raise UserError(f"nothing to import: no pixel shows a class; {'; '.join(warnings)}")
    return ImportReport(*origin, images=images, **counts, warnings=warnings)


def _keeping(annotations: Annotations, names: Sequence[str], options: ImportOptions) -> Annotations:
    """The annotations with objects of classes that are not among the names below all others."""
    kept = [i for i, name in enumerate(annotations.classes, 1) if name in names]
    if len(kept) == len(annotations.classes):
        return annotations
    return replace(annotations, items=tuple(keeping(item, kept, options) for item in annotations.items))


def _write_items(
    items: Sequence[Item], root: Path, table: NDArray[np.uint8], options: ImportOptions, link: bool
) -> list[Written]:
    with progress_bar(len(items)) as bar, ThreadPoolExecutor(cores()) as pool:
        jobs = pool.map(lambda item: _write_item(item, root, table, options, link), items)
        return list(bar.track(jobs, total=len(items), description="importing"))


def _write_item(item: Item, root: Path, table: NDArray[np.uint8], options: ImportOptions, link: bool) -> Written:
    """Write an image and its mask, or say why that cannot be done."""
    name = file_name(item)
    try:
        image = _place_image(item.image, root / "images" / name, link)
    except FAULTS as error:
        return Written(None, why="images that cannot be read", because=short(error, 300))
    with room_for(image):
        return _write_mask(item, root / "masks" / f"{name}.png", image, table, options)


def _write_mask(item: Item, target: Path, image: Path, table: NDArray[np.uint8], options: ImportOptions) -> Written:
    """Write the mask of an image that is in its place; the image is taken away if that cannot be done."""
    try:
        painted, was_turned = upright_mask(item, probe(image), options)
        mask = Image.fromarray(painted.ids).point(table.tolist())
    except FAULTS as error:
        image.unlink()
        if isinstance(error, Unreadable):
            return Written(None, why="images that cannot be used", because=f"it {error.what}")
        return Written(None, why="images without a mask that fits", because=short(error, 300))
    target.parent.mkdir(parents=True, exist_ok=True)
    mask.putpalette(id_palette().tobytes())
    mask.save(target)
    objects = Counter[int]()
    for i, number in painted.objects.items():
        objects[int(table[i])] += number
    return Written(
        np.array(mask.histogram()[:256]), objects, painted.contested, turned=was_turned, unseen=painted.unseen
    )


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
        with open_image(io.BytesIO(content)) as image:
            kind = image.format or "of an unknown kind"
    except UnidentifiedImageError:
        raise UserError("what is embedded is no image") from None
    if kind not in SUFFIXES:
        raise UserError(f"the embedded image is {kind}: expected {', '.join(SUFFIXES)}")
    return SUFFIXES[kind]


def _write_lists(root: Path, items: Sequence[Item], split: Split) -> dict[str, int]:
    """Write train.txt and val.txt where the source does not divide the images; numbers of images per split."""
    images = dict(Counter(item.split for item in items if item.split))
    names = [item.name for item in items if item.split is None]
    if names:
        parts = divide(names, split.share, split.group_by)
        write_lists(root, parts)
        images = {**{part: len(members) for part, members in parts.items()}, **images}
    return images
