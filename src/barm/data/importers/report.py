"""What an import did: counts per class, and what was left out and why."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from barm.data.importers.annotations import Annotations, Item
from barm.data.importers.names import source_of
from barm.labels import IGNORE
from barm.words import count, verb

REPORT = "import.json"


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
        images: number of images per split.
        classes: counts per class, in the order of the ids.
        background: pixels that are background.
        ignored: pixels that are ignored.
        left_out: why something was left out, as often as it was.
        contested: images, and pixels, that objects of several classes cover.
        notes: what a user should know.
        warnings: what a user should mend.
    """

    source: str
    format: str
    options: Mapping[str, object]
    images: Mapping[str, int]
    classes: tuple[ClassCount, ...]
    background: int
    ignored: int
    left_out: Mapping[str, int] = field(default_factory=dict)
    contested: tuple[int, int] = (0, 0)
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


class Written(NamedTuple):
    """An item that was written, or why it was not.

    Attributes:
        ids: pixels per id, ``(256,)``; None if it was not written.
        objects: number of objects per id.
        contested: pixels that objects of several classes cover.
        why: it was not written, in words that hold for several items.
        because: the same, of this item.
        turned: whether the mask was turned with its image.
        unseen: number of objects without a pixel.
    """

    ids: NDArray[np.int64] | None
    objects: Mapping[int, int] = {}
    contested: int = 0
    why: str = ""
    because: str = ""
    turned: bool = False
    unseen: int = 0


def counted(annotations: Annotations, written: Sequence[Written], names: Sequence[str]) -> dict[str, Any]:
    """Counts per class, and everything that was left out, as fields of the `ImportReport`."""
    done = [one for one in written if one.ids is not None]
    pixels = np.sum([one.ids for one in done if one.ids is not None], axis=0)
    images = np.sum([one.ids > 0 for one in done if one.ids is not None], axis=0)
    objects = Counter[int]()
    for one in done:
        objects.update(one.objects)
    left_out = Counter(annotations.left_out)
    left_out.update(reasons(annotations.items, written))
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


def reasons(items: Sequence[Item], written: Sequence[Written]) -> dict[str, int]:
    """Why images were not written, each with an example, and how many."""
    groups = defaultdict[str, list[tuple[Item, Written]]](list)
    for item, one in zip(items, written, strict=True):
        if one.why:
            groups[one.why].append((item, one))
    return {
        f"{why}, such as {source_of(group[0][0])}: {group[0][1].because}": len(group) for why, group in groups.items()
    }


def hidden(classes: Sequence[ClassCount]) -> list[str]:
    """Warnings of classes that have objects, but no pixel."""
    return [
        f"no pixel shows '{each.name}' ({count(each.objects, 'objects')}): other objects cover them (--overlap), or "
        "they lie outside of their images"
        for each in classes
        if each.objects and not each.pixels
    ]


def unseen(items: Sequence[Item], written: Sequence[Written]) -> list[str]:
    """A warning of objects that cover no pixel."""
    found = [(item, one.unseen) for item, one in zip(items, written, strict=True) if one.unseen]
    if not found:
        return []
    number = sum(number for _, number in found)
    return [
        f"{count(number, 'objects')} {verb(number, 'have')} no pixel, such as in {source_of(found[0][0])}: too small, "
        "outside of the image, or with coordinates that are shares of its size?"
    ]


def empty(images: Mapping[str, int]) -> list[str]:
    """Warnings of splits without an image."""
    return [
        f"the {part} split is empty, and a training needs both: annotate more images, or choose another --val"
        for part in ("train", "val")
        if not images.get(part)
    ]


def write_report(root: Path, report: ImportReport) -> None:
    """Store what an import did in its folder."""
    (root / REPORT).write_text(json.dumps(asdict(report), indent=1, ensure_ascii=False, default=str), "utf-8")
