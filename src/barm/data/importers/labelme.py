"""LabelMe: a JSON file of shapes per image, or the masks that its ``labelme2voc.py`` makes of them.

https://github.com/wkentaro/labelme documents both. Shapes are painted in their order. LabelMe has no holes: a later
shape that is called ``_background_`` takes pixels out of what lies below. Shapes of one label and ``group_id`` are
parts of one object. The image is the file that ``imagePath`` names, or the one that is embedded. Classes are in the
order of ``labels.txt`` or ``class_names.txt``, if there is one, and of the alphabet otherwise.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from barm.data.class_names import LARGEST, parse_classes
from barm.data.class_values import ClassValues
from barm.data.importers.annotations import (
    ALL_LEFT_OUT,
    Annotations,
    Classes,
    Cover,
    ImportOptions,
    Item,
    LeftOut,
    Patch,
    Region,
    Size,
)
from barm.data.importers.mask_files import LOST, pair
from barm.data.importers.mask_items import mask_items, readable
from barm.data.importers.mask_scan import check_listed, in_numbers
from barm.data.importers.regions import ellipse, painter, polygon, rectangle, stamp
from barm.data.importers.source_tree import Claims, Tree, name_of, split_of
from barm.data.text import composed_text
from barm.errors import UserError
from barm.labels import IGNORE
from barm.reading import read_json

TITLE = "LabelMe"
OPTIONS = ("overlap", "empty")
LIMIT = 2**28  # bytes of a file with an embedded image
MASKS = ("SegmentationClassPNG", "SegmentationClass")
IMAGES = "JPEGImages"
RINGS = ("polygon", "oriented_rectangle", "rotation")
FAR = 2**20  # pixels; no coordinate lies beyond


def lacks(tree: Tree) -> str | None:
    """What a folder lacks to hold LabelMe's files; None if it does hold them."""
    if any(_is_labelme(tree.peek(path)) for path in tree.with_suffix(".json")) or _exports(tree):
        return None
    return f"no .json with shapes and imagePath, no class_names.txt beside {IMAGES} and {MASKS[0]}"


def read(tree: Tree, options: ImportOptions) -> Annotations:
    """Read all JSON files of a folder; where there are none, the masks that were made of them.

    Raises:
        UserError: for a file that is not as LabelMe writes it.
    """
    files = [path for path in tree.with_suffix(".json") if _is_labelme(tree.peek(path))]
    if not files:
        return _read_exports(tree, options)
    left_out, items = LeftOut(), list[Item]()
    contents = {path: _content(tree.root / path) for path in files}
    lists = tree.named("labels.txt", "class_names.txt")
    known = parse_classes(composed_text(tree.root / lists[0], LARGEST), tree.root / lists[0]) if len(lists) == 1 else ()
    classes, claims = Classes(known, tree.root / (lists[0] if known else files[0])), Claims()
    labels = dict[str, PurePosixPath]()
    for path, content in contents.items():
        for shape in content["shapes"]:
            labels.setdefault(shape["label"], path)
    for label in sorted(labels):
        classes.add(label, where=tree.root / labels[label])
    for path, content in contents.items():
        item = _item(tree, path, content, classes, options, left_out, claims)
        if item is not None:
            items.append(item)
    notes = ["masks in SegmentationClass folders repeat the JSON files: they were not read"] if _exports(tree) else []
    return Annotations(classes.names, tuple(items), left_out.counts(), (*notes, *classes.notes()))


def _is_labelme(text: str) -> bool:
    keys = ('"imagePath"', '"imageData"', '"imageHeight"')
    return text.lstrip("\ufeff \r\n\t").startswith("{") and '"shapes"' in text and any(key in text for key in keys)


def _content(path: Path) -> Mapping[str, Any]:
    """A JSON file, with what every shape must have; an embedded image is dropped, and read again when it is needed."""
    content = read_json(path, LIMIT)
    shapes = content.get("shapes") if isinstance(content, dict) else None
    if not isinstance(shapes, list):
        raise UserError(f"{path}: expected a list 'shapes' as LabelMe writes it, found {type(shapes).__name__}")
    for i, shape in enumerate(shapes, 1):
        if not isinstance(shape, dict) or not isinstance(shape.get("label"), str):
            raise UserError(f"{path}: shape {i}: expected a shape with a label, found {str(shape)[:60]}")
    return {**content, "imageData": bool(content.get("imageData"))}


def _item(
    tree: Tree,
    path: PurePosixPath,
    content: Mapping[str, Any],
    classes: Classes,
    options: ImportOptions,
    left_out: LeftOut,
    claims: Claims,
) -> Item | None:
    """The image of a JSON file; None if it is left out."""
    image = tree.find_image(str(content.get("imagePath") or ""), path)
    if image is None and not content["imageData"]:
        left_out.add("images that are not there", content.get("imagePath"))
        return None
    if image is not None:
        claims.add(image, str(tree.root / path))
    regions = _regions(tree.root / path, content["shapes"], classes, left_out)
    if not regions and content["shapes"]:
        left_out[ALL_LEFT_OUT] += 1
        return None
    if not regions and options.empty == "drop":
        left_out["images without an annotation (--empty background keeps them)"] += 1
        return None
    width, height = content.get("imageWidth"), content.get("imageHeight")
    size = (width, height) if type(width) is int and type(height) is int else None
    file = tree.images[image] if image else partial(_embedded, tree.root / path)
    return Item(
        name_of(image or path.as_posix()), file, painter(regions, options.overlap, "cut"), split_of(image or path), size
    )


def _embedded(path: Path) -> bytes:
    data = read_json(path, LIMIT)["imageData"]
    return base64.b64decode(str(data).rpartition(",")[2], validate=True)


def _regions(path: Path, shapes: list[Mapping[str, Any]], classes: Classes, left_out: LeftOut) -> list[Region]:
    regions, groups = list[Region](), set[tuple[int, str]]()
    for i, shape in enumerate(shapes, 1):
        cover = _cover(shape, f"{path}: shape {i} ({shape['label'][:40]})", left_out)
        if cover is None:
            continue
        class_id, group = classes.add(shape["label"]), shape.get("group_id")
        regions.append(Region(class_id, cover, group is not None and (class_id, str(group)) in groups))
        groups.add((class_id, str(group)))
    return regions


def _cover(shape: Mapping[str, Any], where: str, left_out: LeftOut) -> Cover | None:
    """The pixels of a shape; None if it has no area."""
    kind = shape.get("shape_type") or "polygon"
    points = _points(shape.get("points"), where)
    if kind == "mask":
        if not len(points):
            raise UserError(f"{where}: expected the corners of its mask in points, found none")
        left, top = np.rint(points[0]).astype(int).tolist()
        text = str(shape.get("mask"))
        with _opened(text, where):
            pass
        return partial(_stamped, text, where, left, top)
    if kind in RINGS or (kind == "rectangle" and len(points) == 4):
        if len(points) >= 3:
            return polygon([points])
        left_out["polygons of fewer than three points"] += 1
        return None
    if kind in ("rectangle", "circle"):
        if len(points) != 2:
            raise UserError(f"{where}: expected a {kind} of two points, found {len(points)}: draw it anew")
        (x, y), (right, bottom) = points.tolist()
        radius = float(np.hypot(right - x, bottom - y))
        return rectangle(x, y, right, bottom) if kind == "rectangle" else ellipse(x, y, radius, radius)
    left_out[f"shapes without an area ({str(kind)[:20]})"] += 1
    return None


def _points(points: Any, where: str) -> NDArray[np.float64]:
    try:
        result = np.array(points if points else np.zeros((0, 2)), float)
        good = result.ndim == 2 and result.shape[1] == 2 and bool((abs(result) < FAR).all())  # NaN is not below
    except (TypeError, ValueError, OverflowError):
        good = False
    if not good:
        raise UserError(f"{where}: expected points [[x, y], ...] in pixels, found {str(points)[:60]}")
    return result


def _stamped(text: str, where: str, left: int, top: int, size: Size) -> Patch:
    with _opened(text, where) as mask:
        return stamp(np.asarray(mask.convert("L")) > 0, left, top)(size)


@contextmanager
def _opened(text: str, where: str) -> Iterator[Image.Image]:
    """The mask of a shape, of which the head is read."""
    try:
        with Image.open(io.BytesIO(base64.b64decode(text, validate=True)), formats=["PNG"]) as mask:
            yield mask
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        raise UserError(f"{where}: its mask cannot be read as a PNG in base64: draw it anew") from None


def _exports(tree: Tree) -> list[PurePosixPath]:
    """The masks that stand beside a ``class_names.txt`` and a folder of images."""
    found = list[PurePosixPath]()
    for place in tree.named("class_names.txt"):
        inside = [path for path in tree.files if place.parent in path.parents]
        folders = {path.relative_to(place.parent).parts[0] for path in inside}
        if IMAGES in folders or tree.images_root is not None:
            for folder in MASKS:
                masks = [p for p in inside if p.parent == place.parent / folder and p.suffix.lower() == ".png"]
                if masks:
                    found += masks
                    break
    return found


def _read_exports(tree: Tree, options: ImportOptions) -> Annotations:
    """Read masks whose values are the lines of ``class_names.txt`` from 0; 255 is what LabelMe ignores."""
    images = [key for key in tree.images if tree.images_root is not None or PurePosixPath(key).parent.name == IMAGES]
    pairs, left_out, classes = pair(_exports(tree), images), LeftOut(), Classes()
    left_out.add(LOST, *pairs.lost)
    facts = in_numbers(readable(tree, pairs, left_out))
    tables = {mask.parent.parent: _values(tree.root / mask.parent.parent, classes) for mask in pairs.masks.values()}
    for place, values in tables.items():
        check_listed({path: each for path, each in facts.items() if path.parent.parent == tree.root / place}, values)
    masks = {image: (mask, tables[mask.parent.parent]) for image, mask in pairs.masks.items()}
    items = mask_items(tree, masks, facts, options, left_out, images=images)
    return Annotations(classes.names, items, left_out.counts(), classes.notes(), classes.values)


def _values(folder: Path, classes: Classes) -> ClassValues:
    """The meaning of the masks' values in an export."""
    path = folder / "class_names.txt"
    names = parse_classes(composed_text(path, LARGEST), path)
    ids = {value: classes.add(name, str(value)) for value, name in enumerate(names, 1)}
    return ClassValues(names, ((0, 0), *ids.items(), (IGNORE, IGNORE)), False, None, path)
