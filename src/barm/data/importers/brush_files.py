"""Label Studio's images of brush strokes: a file per stroke, whose name says its task, its annotation and its label.

``task-12-annotation-7-by-1-tag-cat-0.png`` is the first stroke of the label ``cat`` of the control ``tag``. It holds
the stroke's opacity, so that 128 and more belong to it. Which image it lies on, the JSON export alone says.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from barm.data.images import open_image
from barm.data.importers.annotations import Cover, Patch, Size
from barm.data.importers.brush_rle import OPAQUE
from barm.data.importers.mask_scan import read_grey
from barm.data.importers.regions import cropped
from barm.data.importers.source_tree import Tree
from barm.errors import UserError
from barm.escaping import normal

NAME = re.compile(r"task-(\d+)-annotation-(\d+)-by-([^-]*)-(.+-.+)-(\d+)\.png", re.IGNORECASE)
FILE = "stroke"  # key of a region's file, which is a `Path`: JSON holds none
Region = Mapping[str, Any]


class Stroke(NamedTuple):
    """A file of one stroke.

    Attributes:
        path: of the file.
        tag: names of the control and the labels, with hyphens between them.
        number: of the stroke, from 0.
    """

    path: Path
    tag: str
    number: int


def stroke_files(tree: Tree) -> dict[tuple[str, str], list[Stroke]]:
    """The strokes of every task and annotation, in the order of their numbers."""
    found = defaultdict[tuple[str, str], list[Stroke]](list)
    for place in tree.with_suffix(".png"):
        parts = NAME.fullmatch(normal(place.name))
        if parts is not None:
            found[parts[1], parts[2]].append(Stroke(tree.root / place, parts[4], int(parts[5])))
    return {key: sorted(strokes, key=lambda each: (each.number, each.path)) for key, strokes in found.items()}


def with_strokes(
    regions: Sequence[Region], strokes: Iterable[Stroke], controls: Collection[str], labels: Collection[str]
) -> tuple[Region, ...]:
    """The regions of an annotation, of which strokes are read from their files.

    Args:
        regions: with ``control`` and ``labels``. A file takes the place of the region that it repeats; those that
            repeat none follow.
        strokes: of the annotation.
        controls: names of all controls of the project.
        labels: names of all labels of the project.

    Raises:
        UserError: for a file whose label is not clear.
    """
    result, files = list(regions), defaultdict[str, list[Stroke]](list)
    for stroke in strokes:
        files[stroke.tag].append(stroke)
    for tag, group in files.items():
        places = [i for i, region in enumerate(regions) if _is_brush(region) and _tag(region) == tag]
        numbered = all(stroke.number < len(places) for stroke in group)
        for i, stroke in enumerate(group):
            place = stroke.number if numbered else i
            if place < len(places):
                result[places[place]] = {**regions[places[place]], FILE: stroke.path}
            else:
                result.append({"labels": [_label(stroke, controls, labels)], "type": "brushlabels", FILE: stroke.path})
    return tuple(result)


def stroke(path: Path) -> Cover:
    """The pixels of a stroke's file."""
    return partial(_read, path)


def _read(path: Path, size: Size) -> Patch:
    with open_image(path) as image:
        if image.size != size:
            raise UserError("{2}: its stroke is of {0}x{1} pixels, not {3}x{4}".format(*image.size, path.name, *size))
    opacity = read_grey(path)
    if 0 < opacity.max() < OPAQUE:
        raise UserError(f"{path.name}: its stroke holds up to {opacity.max()}, expected 0 and 255: export it anew")
    return cropped(opacity >= OPAQUE)


def _is_brush(region: Region) -> bool:
    return "rle" in region or "brushlabels" in region or region.get("type") in ("brush", "brushlabels")


def _tag(region: Region) -> str:
    return _written("-".join([str(region.get("control") or ""), *region["labels"]]))


def _written(name: str) -> str:
    """A name as a file's name holds it."""
    return normal(name).replace("/", "-").replace("\\", "-")


def _label(stroke: Stroke, controls: Collection[str], labels: Collection[str]) -> str:
    """The label of a stroke that repeats no region: both names may have hyphens in them."""
    tags = {label for label in labels for control in controls if _written(f"{control}-{label}") == stroke.tag}
    ends = {label for label in labels if stroke.tag.endswith(f"-{_written(label)}")}
    rests = {stroke.tag.removeprefix(f"{control}-") for control in controls if stroke.tag.startswith(f"{control}-")}
    plain = {stroke.tag.partition("-")[2]} if stroke.tag.count("-") == 1 else set[str]()
    readings = sorted(next((each for each in (tags, ends | rests, plain) if each), set()))
    if len(readings) != 1:
        several = " or ".join(f"'{each}'" for each in readings[:2]) or "any end of it"
        raise UserError(
            f"{stroke.path}: in '{stroke.tag}' the label may be {several}: rename the file as task, annotation and "
            "control-label, with a label of the project"
        )
    return readings[0]
