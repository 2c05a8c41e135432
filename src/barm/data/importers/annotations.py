"""What an importer reads: images, the regions of their classes, and the choices that a user has."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from barm.data.class_names import MOST, special_id
from barm.errors import UserError
from barm.escaping import normal
from barm.labels import IGNORE

Overlap = Literal["later", "earlier", "smaller", "ignore"]
Rings = Literal["ask", "holes", "union"]
Crowd = Literal["class", "ignore"]
Boxes = Literal["ignore", "fill"]
Empty = Literal["drop", "background"]
Values = Literal["ask", "index", "colour"]
Labels = Literal["ask", "ids", "trainids"]
First = Literal["ask", "0", "1"]
Rest = Literal["background", "ignore"]
Annotator = Literal["ask", "first", "last"]
Background = Literal["ask", "cut", "below"]
DrawnOn = Literal["ask", "stored", "upright"]
Size = tuple[int, int]  # width, height
BOXES = "objects with a box alone, whose pixels are ignored (--boxes fill: they are the class)"


class Patch(NamedTuple):
    """The pixels of a region, in the smallest box that holds them.

    Attributes:
        left: the box's first column in the image.
        top: its first row.
        mask: ``(h, w)`` bool, not larger than the image.
    """

    left: int
    top: int
    mask: NDArray[np.bool_]

    @property
    def box(self) -> tuple[slice, slice]:
        """Its place in an array ``(H, W)``."""
        height, width = self.mask.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)


Cover = Callable[[Size], Patch]  # the pixels of a region in an image of a size


@dataclass(frozen=True)
class ImportOptions:
    """The choices of an import. Where `ask` stands, an import stops if it matters and nothing decides it.

    Attributes:
        format: a name in `barm.data.importers.IMPORTERS`, or ``auto``.
        images: a folder of images, if they are not beside the annotations.
        classes: the names to keep, in the order of their ids; all, in the source's order, if empty.
        rest: what the pixels of classes that are not kept become.
        overlap: which of several objects of a pixel counts; ``ignore``: none.
        rings: what a ring inside another ring of the same object is.
        crowd: what a region that COCO marks as a crowd is.
        boxes: what an object is that has a box alone.
        empty: what an image without any annotation is.
        values: what decides the class in masks with palettes: the index or its colour.
        labels: which of Cityscapes' label files are read.
        colours: a table of colours and class names, for masks in colour.
        first: the number in masks of the first name of a list.
        background: what an object is that is called background and lies over others: it takes its pixels out of those
            before it (``cut``), or lies below all of them.
        annotator: which of several annotations of an image counts, in the order in which they were made.
        drawn_on: what a mask was drawn on where EXIF data turn an image: the stored or the upright one, where their
            sizes do not say it.
        image_column: the column of images in a table; found out if empty.
        label_column: the column of masks in a table; found out if empty.
    """

    format: str = "auto"
    images: Path | None = None
    classes: tuple[str, ...] = ()
    rest: Rest = "background"
    overlap: Overlap = "later"
    rings: Rings = "ask"
    crowd: Crowd = "class"
    boxes: Boxes = "ignore"
    empty: Empty = "drop"
    values: Values = "ask"
    labels: Labels = "ask"
    colours: Path | None = None
    first: First = "ask"
    annotator: Annotator = "ask"
    background: Background = "ask"
    drawn_on: DrawnOn = "ask"
    image_column: str = ""
    label_column: str = ""


ALL_LEFT_OUT = "images whose annotations are all left out"  # which are neither background nor without an annotation


class Region(NamedTuple):
    """One object of an image.

    Attributes:
        class_id: 1, 2, ... in `Annotations.classes`; 255 is ignored. With 0 it is no object, but a part that is taken
            out of all objects before it.
        cover: its pixels.
        further: whether it is a further part of an object that has a region already.
        below: whether it lies below all objects that do not, such as a box around an object of unknown shape.
    """

    class_id: int
    cover: Cover
    further: bool = False
    below: bool = False


class Painted(NamedTuple):
    """A mask as an importer makes it.

    Attributes:
        ids: ``(H, W)`` uint8.
        objects: number of objects per id; empty where a format knows pixels only.
        contested: number of pixels that objects of several classes cover.
        unseen: number of objects without a pixel.
    """

    ids: NDArray[np.uint8]
    objects: Mapping[int, int] = {}
    contested: int = 0
    unseen: int = 0


@dataclass(frozen=True)
class Layers:
    """A mask that is painted from objects: a `Item.paint`.

    Attributes:
        objects: in the source's order; each begins with its id.
        paint: makes the mask of objects for an image of ``(width, height)``.
    """

    objects: tuple[tuple[Any, ...], ...]
    paint: Callable[[Sequence[Any], Size], Painted]

    def __call__(self, size: Size) -> Painted:
        """Paint all objects."""
        return self.paint(self.objects, size)

    def only(self, ids: Container[int]) -> Layers:
        """The mask of the objects with some ids."""
        return replace(self, objects=tuple(each for each in self.objects if each[0] in ids))


@dataclass(frozen=True)
class Item:
    """An annotated image.

    Attributes:
        name: unique among the items; the image's path below the source, without suffix.
        image: its file, or a function that returns the file's bytes.
        paint: makes the mask for an image of ``(width, height)``; `Layers` where an image has objects.
        split: ``train``, ``val`` or ``test``, where the source says it.
        size: ``(width, height)`` of the image that was annotated, where the source says it.
    """

    name: str
    image: Path | Callable[[], bytes]
    paint: Callable[[Size], Painted] = field(repr=False)
    split: str | None = None
    size: Size | None = None


@dataclass(frozen=True)
class Annotations:
    """Everything that an importer read.

    Attributes:
        classes: names of the ids 1, 2, ....
        items: annotated images.
        left_out: why something was left out, as often as it was.
        notes: what a user should know about the reading.
        values: what stood for a class in the source: a number, or a colour ``#rrggbb``, by class name; background and
            ignored pixels under ``background`` and ``ignore``. Empty where names alone stand in it.
    """

    classes: tuple[str, ...]
    items: tuple[Item, ...]
    left_out: Mapping[str, int] = field(default_factory=Counter[str])
    notes: tuple[str, ...] = ()
    values: Mapping[str, str] = field(default_factory=dict[str, str])


class Preview(NamedTuple):
    """An image with the mask that one of several readings gives it."""

    item: Item
    classes: tuple[str, ...]


class Ambiguous(Exception):
    """A source that can be read in several ways.

    Args:
        what: the question, in a sentence without its end.
        flag: the option that answers it, such as ``--rings``.
        readings: an example for each answer.
    """

    def __init__(self, what: str, flag: str, readings: Mapping[str, Preview]) -> None:
        super().__init__(what)
        self.what, self.flag, self.readings = what, flag, readings


class Undecided(Exception):
    """A mask that can be painted in several ways.

    Args:
        what: the question, without the image's name.
        flag: the option that answers it.
        answers: paints the mask, by answer.
    """

    def __init__(self, what: str, flag: str, answers: Mapping[str, Callable[[Size], Painted]]) -> None:
        super().__init__(what)
        self.what, self.flag, self.answers = what, flag, answers


class LeftOut(Counter[str]):
    """Why something was left out, as often as it was, with an example."""

    def __init__(self) -> None:
        super().__init__()
        self._examples = dict[str, object]()

    def add(self, why: str, *things: object) -> None:
        """Count things that were left out for a reason."""
        if things:
            self[why] += len(things)
            self._examples.setdefault(why, things[0])

    def counts(self) -> dict[str, int]:
        """How often something was left out, by the reason and its example."""
        named = self._examples
        return {f"{why}, such as {named[why]}" if why in named else why: n for why, n in self.items() if n}


class Classes:
    """Class names of a source, which get the ids 1, 2, ... in the order in which they are given.

    Names of the background get the id 0, names of ignored pixels 255.

    Args:
        names: in the order of the ids.
        where: the file that holds them, for messages.

    Raises:
        UserError: for more than 254 classes, or a name that is empty or holds what cannot be printed.

    Attributes:
        values: what stands for a class in the source, by name, as `Annotations.values` has it.
    """

    def __init__(self, names: Sequence[str] = (), where: Path | None = None) -> None:
        self.where, self.ignored = where, set[str]()
        self.values = dict[str, str]()
        self._ids: dict[str, int] = {}
        for name in names:
            self.add(name)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the ids 1, 2, ...."""
        return tuple(self._ids)

    def add(self, name: str, value: str | None = None, where: Path | str | None = None) -> int:
        """The id of a name, which becomes a class if it is new.

        Args:
            name: as the source has it.
            value: what stands for it in the source.
            where: it was found, for messages; by default where all of them are.
        """
        name = " ".join(normal(name).split())
        class_id = self._id(name, where or self.where)
        if value is not None:
            self.values.setdefault({0: "background", IGNORE: "ignore"}.get(class_id, name), value)
        return class_id

    def _id(self, name: str, where: Path | str | None) -> int:
        place = f"{where}: " if where else ""
        if not name:
            raise UserError(f"{place}a class has no name: give every class one")
        if any(unicodedata.category(c) in ("Cc", "Cs") for c in name):
            raise UserError(f"{place}the class name {ascii(name)[:60]} cannot be printed: write another one")
        special = special_id(name)
        if special is not None:
            self.ignored |= {name} if special == IGNORE else set()
            return special
        if name not in self._ids and len(self._ids) == MOST:
            raise UserError(f"{place}expected at most {MOST} class names, found more: name fewer")
        return self._ids.setdefault(name, len(self._ids) + 1)

    def notes(self) -> tuple[str, ...]:
        """A note on names that were taken to mean ignored pixels."""
        return tuple(f"'{name}' is read as ignored (255)" for name in sorted(self.ignored))
