"""COCO JSON: one file per split with images, categories and annotations, as most annotation tools export it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from barm.data.importers.annotations import (
    ALL_LEFT_OUT,
    BOXES,
    Ambiguous,
    Annotations,
    Classes,
    ImportOptions,
    Item,
    LeftOut,
    Preview,
    Region,
)
from barm.data.importers.regions import check_run_lengths, nested, painter, polygon, rectangle, run_lengths
from barm.data.importers.source_tree import Claims, Tree, name_of, split_of
from barm.errors import UserError
from barm.labels import IGNORE
from barm.reading import read_json

TITLE = "COCO JSON"
OPTIONS = ("overlap", "rings", "crowd", "boxes", "empty", "background")
KEYS = ("images", "annotations", "categories")
FAR = 2**20  # pixels; no coordinate lies beyond
JSON_LIMIT = 2**31  # bytes; the annotations of COCO's training images are 450 MB


def lacks(tree: Tree) -> str | None:
    """What a folder lacks to hold COCO annotations; None if it does hold them."""
    return None if _files(tree) else f"no .json with {', '.join(KEYS)}"


def read(tree: Tree, options: ImportOptions) -> Annotations:
    """Read all COCO files of a folder. Their categories are matched by name.

    Raises:
        UserError: for a file that contradicts itself.
        Ambiguous: where a ring inside a ring may be a hole.
    """
    left_out = LeftOut()
    files = [_File(tree.root / path, path, _json(tree.root / path)) for path in _files(tree)]
    if not files:
        raise UserError(f"{tree.root}: expected COCO annotations in it, found no .json with {', '.join(KEYS)}")
    above = _above(files)
    categories = [{i: name for i, name in file.categories().items() if name not in above} for file in files]
    classes, items, claims = Classes(where=files[0].path), list[Item](), Claims()
    for number, name in _in_order(categories):
        first = next(file.path for file, names in zip(files, categories, strict=True) if name in names.values())
        classes.add(name, str(number), first)
    for file, names in zip(files, categories, strict=True):
        ids = {number: classes.add(name) for number, name in names.items()}
        for item, image in _items(file, ids, tree, options, left_out, classes):
            claims.add(image, str(file.path))
            items.append(item)
    notes = [f"'{name}' stands above other categories and has no annotation: it is no class" for name in sorted(above)]
    return Annotations(classes.names, tuple(items), left_out.counts(), (*notes, *classes.notes()), classes.values)


@dataclass(frozen=True)
class _File:
    path: Path
    place: PurePosixPath  # below the source
    content: Mapping[str, Any]

    def wrong(self, what: str) -> UserError:
        return UserError(f"{self.path}: {what}")

    def categories(self) -> dict[int, str]:
        """Names by the categories' numbers."""
        names = dict[int, str]()
        for entry in self.entries("categories"):
            number, name = entry.get("id"), entry.get("name")
            if type(number) is not int or not isinstance(name, str):
                raise self.wrong(f"expected a category with id and name, found {str(entry)[:60]}")
            if names.get(number, name) != name:
                raise self.wrong(f"the category {number} is '{names[number]}' and '{name}': give each its own id")
            names[number] = name
        if not names:
            raise self.wrong("expected at least one category, found none")
        for name, times in Counter(names.values()).items():
            if times > 1:
                first, second, *_ = (number for number in names if names[number] == name)
                raise self.wrong(
                    f"the categories {first} and {second} are both called '{name}': give each its own name"
                )
        return names

    def used(self) -> set[str]:
        """Names of the categories that annotations have."""
        names = self.categories()
        numbers = (each.get("category_id") for each in self.entries("annotations"))
        return {names[number] for number in numbers if type(number) is int and number in names}

    def entries(self, key: str) -> Iterable[Mapping[str, Any]]:
        """The objects of a list."""
        for entry in self.content[key]:
            if not isinstance(entry, dict):
                raise self.wrong(f"expected objects in '{key}', found {str(entry)[:60]}")
            yield entry


@lru_cache(maxsize=2)
def _files(tree: Tree) -> tuple[PurePosixPath, ...]:
    return tuple(path for path in tree.with_suffix(".json") if _is_coco(tree.peek(path)))


def _is_coco(text: str) -> bool:
    return text.lstrip("\ufeff \r\n\t").startswith("{") and sum(f'"{key}"' in text for key in KEYS) >= 2


def _json(path: Path) -> Mapping[str, Any]:
    content = read_json(path, limit=JSON_LIMIT)
    for key in KEYS:
        found = content.get(key) if isinstance(content, dict) else None
        if not isinstance(found, list):
            raise UserError(f"{path}: expected a list '{key}' as in COCO, found {type(found).__name__}")
    return dict(content)


def _above(files: Sequence[_File]) -> set[str]:
    """Names of categories that others name as the one above them, and that no annotation has: Roboflow lists them."""
    named = {
        str(entry.get("supercategory"))
        for file in files
        for entry in file.entries("categories")
        if entry.get("supercategory") != entry.get("name")
    }
    listed = {name for file in files for name in file.categories().values()}
    return listed & named - {name for file in files for name in file.used()}


def _in_order(categories: Sequence[Mapping[int, str]]) -> list[tuple[int, str]]:
    """All names, each once, in the order of their numbers in the first file that has them."""
    first = {name: number for names in reversed(categories) for number, name in names.items()}
    order = dict.fromkeys(name for names in categories for _, name in sorted(names.items()))
    return [(first[name], name) for name in order]


def _items(
    file: _File,
    ids: Mapping[int, int],
    tree: Tree,
    options: ImportOptions,
    left_out: LeftOut,
    classes: Classes,
) -> list[tuple[Item, str]]:
    """The images of a file with their objects, and the keys of the images."""
    objects = defaultdict[Any, list[Mapping[str, Any]]](list)
    for annotation in file.entries("annotations"):
        number, of = annotation.get("category_id"), annotation.get("image_id")
        if type(number) is not int or number not in ids:
            found = str(number)[:40]
            raise file.wrong(f"annotation {annotation.get('id')} has the category {found}, which is not listed")
        if not isinstance(of, int | str):
            raise file.wrong(f"annotation {annotation.get('id')}: expected the id of its image, found {str(of)[:40]}")
        objects[of].append(annotation)
    items, split, known = list[tuple[Item, str]](), split_of(file.place, file=True), set[Any]()
    claims = Claims()
    for entry in file.entries("images"):
        number, name, width, height = (entry.get(key) for key in ("id", "file_name", "width", "height"))
        own = isinstance(number, int | str) and number not in known
        if not own or not isinstance(name, str) or not _is_size(width, height):
            raise file.wrong(f"expected an image with its own id, file_name, width and height, found {str(entry)[:80]}")
        known.add(number)
        size = (int(str(width)), int(str(height)))
        path = tree.find_image(str(entry.get("path") or name), file.place) or tree.find_image(name, file.place)
        if path is None:
            left_out.add("images that are not there", name)
            continue
        claims.add(path, f"{file.path}: {name[:80]} (id {number})")
        regions = [
            region
            for annotation in objects[number]
            for region in _regions(file, annotation, ids, size, options, left_out)
        ]
        if not regions and objects[number]:
            left_out[ALL_LEFT_OUT] += 1
            continue
        if not regions and options.empty == "drop":
            left_out.add("images without an annotation (--empty background keeps them)", name)
            continue
        paint = painter(regions, options.overlap, options.background)
        item = Item(name_of(path), tree.images[path], paint, split or split_of(path), size)
        items.append((item, path))
        if options.rings == "ask":
            _ask_about_rings(file, item, objects[number], ids, options, classes)
    strange = set(objects) - known
    if strange:
        left_out["annotations of images that are not listed"] += sum(len(objects[number]) for number in strange)
    return items


def _is_coordinate(number: Any) -> bool:
    return isinstance(number, int | float) and abs(number) < FAR  # NaN is not


def _is_size(*sides: Any) -> bool:
    return all(type(side) is int and 0 < side < 2**15 for side in sides)


def _regions(
    file: _File,
    annotation: Mapping[str, Any],
    ids: Mapping[int, int],
    size: tuple[int, int],
    options: ImportOptions,
    left_out: LeftOut,
) -> list[Region]:
    """An annotation's region; none if it has no pixels, or is left out."""
    class_id, shape = ids[annotation["category_id"]], annotation.get("segmentation")
    if annotation.get("iscrowd"):
        class_id = IGNORE if options.crowd == "ignore" else class_id
    if isinstance(shape, dict):
        wrong = check_run_lengths(shape)
        if wrong is None and tuple(shape["size"]) != size[::-1]:
            wrong = "the run lengths are of {1}x{0} pixels, the image {2}x{3}".format(*shape["size"], *size)
        if wrong:
            raise file.wrong(f"annotation {annotation.get('id')}: {wrong}")
        return [Region(class_id, run_lengths(shape))]
    rings = _rings(file, annotation)
    if rings:
        return [Region(class_id, polygon(rings, holes=options.rings == "holes"))]
    box = annotation.get("bbox")
    if box:
        if not (isinstance(box, list) and len(box) == 4 and all(_is_coordinate(n) for n in box)):
            expected = f"annotation {annotation.get('id')}: expected a box [left, top, width, height]"
            raise file.wrong(f"{expected}, found {str(box)[:60]}")
        left, top, width, height = box
        cover = rectangle(left, top, left + width, top + height)
        if options.boxes == "ignore":
            left_out.add(BOXES, f"annotation {annotation.get('id')}")
        return [Region(class_id, cover) if options.boxes == "fill" else Region(IGNORE, cover, below=True)]
    left_out["objects without a shape"] += 1
    return []


def _rings(file: _File, annotation: Mapping[str, Any]) -> list[Any]:
    """An annotation's polygons, ``(n, 2)`` each. Fewer than three points have no area."""
    shape = annotation.get("segmentation") or []
    if isinstance(shape, list) and shape and all(isinstance(n, int | float) for n in shape):
        shape = [shape]  # one ring without the list around it
    try:
        rings = [np.array(ring, float).reshape(-1, 2) for ring in shape]
        finite = all((abs(ring) < FAR).all() for ring in rings)  # NaN is not
    except (TypeError, ValueError, OverflowError):
        finite = False
    if not finite or not isinstance(shape, list):
        number = annotation.get("id")
        raise file.wrong(f"annotation {number}: expected polygons [x1, y1, x2, y2, ...], found {str(shape)[:60]}")
    return [ring for ring in rings if len(ring) >= 3]


def _ask_about_rings(
    file: _File,
    item: Item,
    annotations: Sequence[Mapping[str, Any]],
    ids: Mapping[int, int],
    options: ImportOptions,
    classes: Classes,
) -> None:
    """Ask what a ring inside a ring is, if the image has one."""
    assert item.size is not None
    for annotation in annotations:
        if isinstance(annotation.get("segmentation"), dict) or not nested(_rings(file, annotation), item.size):
            continue
        readings = {}
        for answer in ("holes", "union"):
            chosen = ImportOptions(**{**vars(options), "rings": answer})
            regions = [r for a in annotations for r in _regions(file, a, ids, item.size, chosen, LeftOut())]
            background = "cut" if options.background == "ask" else options.background
            painted = replace(item, paint=painter(regions, options.overlap, background))
            readings[answer] = Preview(painted, classes.names)
        what = (
            f"{file.path}: annotation {annotation.get('id')} has a ring inside another ring, which may be a hole in it"
        )
        raise Ambiguous(what, "--rings", readings)
