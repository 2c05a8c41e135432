"""Label Studio: a JSON file of tasks, each with an image and the annotations of one or several people.

https://labelstud.io/guide/task_format specifies it; the JSON-MIN export is read, too. Polygons, rectangles, ellipses
and brush strokes become regions, matched by the names of their labels, whichever control they belong to. Annotations
that were skipped do not count. Of several that remain, the single one marked as ground truth counts; without such a
mark the option `annotator` decides. An annotation that was handed in without any region says that the image is
background. Classes are in the order of the alphabet: the export does not hold the project's own order. Images of
brush strokes that lie beside the JSON file take the place of the strokes in it.
"""

from __future__ import annotations

import base64
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from barm.data.images import IMAGE_SUFFIXES
from barm.data.importers.annotations import (
    ALL_LEFT_OUT,
    Ambiguous,
    Annotations,
    Classes,
    Cover,
    ImportOptions,
    Item,
    LeftOut,
    Preview,
    Region,
    Size,
)
from barm.data.importers.brush_files import FILE, Stroke, stroke, stroke_files, with_strokes
from barm.data.importers.brush_rle import brush, check_brush
from barm.data.importers.regions import Ring, drawn, ellipse_ring, painter, relative, rotated
from barm.data.importers.source_tree import Claims, Tree, name_of, split_of
from barm.errors import UserError
from barm.reading import read_json
from barm.words import count, verb

TITLE = "Label Studio"
OPTIONS = ("overlap", "empty", "annotator", "background")
LIMIT = 2**30  # bytes
LABELS = ("polygonlabels", "rectanglelabels", "ellipselabels", "brushlabels", "labels")
SAFE = re.compile(r"[A-Za-z0-9_-]{1,40}")  # as a part of a file's name
PREFIX = re.compile(r"(^|[/\\=])[0-9a-f]{8}-(?=[^/\\]+$)")  # that an upload puts before a file's name
EMBEDDED = "data:image/"
LOST = "files of strokes whose annotation does not count or is not in the JSON file"
FAR = 2**12  # in percent of a side; no coordinate lies beyond
Values = Mapping[str, Any]


@dataclass(frozen=True)
class _Task:
    """An image with the annotations that were handed in.

    Attributes:
        where: the file and the task, for messages.
        place: the file, below the source.
        data: what was to be annotated, by name.
        annotations: of each its regions, as Label Studio has them.
        number: of the task.
        ids: of the annotations.
        file: name of the uploaded image, where it is known.
    """

    where: str
    place: PurePosixPath
    data: Values
    annotations: tuple[tuple[Values, ...], ...]
    number: str
    ids: tuple[str, ...]
    file: str = ""


def lacks(tree: Tree) -> str | None:
    """What a folder lacks to be an export of Label Studio; None if it is one."""
    if _files(tree) or stroke_files(tree):
        return None
    return "no .json with a list of tasks and their annotations"


def read(tree: Tree, options: ImportOptions) -> Annotations:
    """Read all tasks of a folder.

    Raises:
        UserError: for a file that is not as Label Studio writes it, or brush images without it.
        Ambiguous: where several people annotated an image.
    """
    files, strokes = _files(tree), stroke_files(tree)
    if not files:
        name = next((each.path.name for group in strokes.values() for each in group), "nothing")
        raise UserError(
            f"{tree.root}: {name} does not say which image it belongs to: put the JSON export of the same project "
            "beside it, which holds the brush strokes, too"
        )
    left_out, items, claims = LeftOut(), list[Item](), Claims()
    tasks = [task for path in files for task in _tasks(tree, path, left_out)]
    tasks = _with_strokes(tasks, strokes, left_out)
    names = dict[str, str]()
    for task in tasks:
        for region in chain.from_iterable(task.annotations):
            for name in region["labels"]:
                names.setdefault(name, task.where)
    classes = Classes(where=tree.root / files[0])
    for name in sorted(names):
        classes.add(name, where=names[name])
    for task in tasks:
        item = _item(tree, task, classes, options, left_out, claims)
        if item is not None:
            items.append(item)
    number = sum(map(len, strokes.values())) - left_out[LOST]
    notes = [f"{count(number, 'brush strokes')} {verb(number, 'were')} read from PNG files"] if number else []
    return Annotations(classes.names, tuple(items), +left_out, (*notes, *classes.notes()))


@lru_cache(maxsize=2)
def _files(tree: Tree) -> tuple[PurePosixPath, ...]:
    return tuple(path for path in tree.with_suffix(".json") if _is_export(tree.peek(path)))


def _with_strokes(
    tasks: Sequence[_Task], strokes: Mapping[tuple[str, str], Sequence[Stroke]], left_out: LeftOut
) -> list[_Task]:
    """The tasks with the strokes that stand in files of their own."""
    regions = [region for task in tasks for each in task.annotations for region in each]
    controls = {str(region["control"]) for region in regions if region["control"]}
    labels = {label for region in regions for label in region["labels"]}
    result, used = list[_Task](), set[tuple[str, str]]()
    for task in tasks:
        keys = [(task.number, each) for each in task.ids]
        used.update(keys)
        annotations = (
            with_strokes(each, strokes.get(key, ()), controls, labels)
            for each, key in zip(task.annotations, keys, strict=True)
        )
        result.append(replace(task, annotations=tuple(annotations)))
    lost = [each for key, group in strokes.items() if key not in used for each in group]
    if lost:
        left_out[LOST] += len(lost)
    return result


def _is_export(text: str) -> bool:
    full = any(f'"{key}"' in text for key in ("annotations", "completions")) and '"data"' in text
    return text.lstrip("\ufeff \r\n\t").startswith("[") and (full or '"annotation_id"' in text)


def _tasks(tree: Tree, place: PurePosixPath, left_out: LeftOut) -> list[_Task]:
    """The tasks of a file."""
    path = tree.root / place
    content = read_json(path, LIMIT)
    tasks, short = list[_Task](), defaultdict[str, list[tuple[int, Values]]](list)
    for i, task in enumerate(content if isinstance(content, list) else [content], 1):
        if not isinstance(task, dict):
            raise UserError(f"{path}: expected a list of tasks, found {str(task)[:60]}")
        if "annotation_id" in task:
            short[str(task.get("id"))].append((i, task))
            continue
        entries = task.get("annotations", task.get("completions"))
        if not isinstance(entries, list) or not isinstance(task.get("data"), dict):
            raise UserError(f"{path}: task {_number(task, i)}: expected data and a list of annotations")
        where = f"{path}: task {_number(task, i)}"
        chosen = _handed_in(entries, where, left_out)
        if not chosen and task.get("predictions"):
            left_out["images with predictions alone"] += 1
            continue
        upload = task.get("file_upload")
        annotations = tuple(_merged(entry.get("result"), where) for entry in chosen)
        file, ids = upload if isinstance(upload, str) else "", tuple(str(entry.get("id")) for entry in chosen)
        tasks.append(_Task(where, place, task["data"], annotations, _number(task, i), ids, file))
    for entries in short.values():
        first, task = entries[0]
        tasks.append(_short_task(path, place, _number(task, first), [record for _, record in entries]))
    return tasks


def _number(task: Values, position: int) -> str:
    """A task's id, or its position in the file where the id is no part of a file's name."""
    number = str(task.get("id"))
    return number if task.get("id") is not None and SAFE.fullmatch(number) else f"task{position}"


def _handed_in(entries: Sequence[Any], where: str, left_out: LeftOut) -> list[Values]:
    """The annotations that count, the earliest first."""
    if not all(isinstance(entry, dict) for entry in entries):
        raise UserError(f"{where}: expected objects in annotations, found {str(entries)[:60]}")
    kept = [entry for entry in entries if not (entry.get("was_cancelled") or entry.get("skipped"))]
    if len(kept) < len(entries):
        left_out["annotations that were skipped"] += len(entries) - len(kept)
    true = [entry for entry in kept if entry.get("ground_truth")]
    return true if len(true) == 1 else sorted(kept, key=lambda entry: str(entry.get("created_at") or ""))


def _merged(results: Any, where: str) -> tuple[Values, ...]:
    """The regions of an annotation; what a region's several controls say is put together by its id."""
    if not isinstance(results, list):
        raise UserError(f"{where}: expected a list 'result', found {type(results).__name__}")
    regions = dict[Any, dict[str, Any]]()
    for i, result in enumerate(results):
        value = result.get("value") if isinstance(result, dict) else None
        if not isinstance(value, dict):
            continue  # a relation between regions
        key = result.get("id") if isinstance(result.get("id"), str) else i
        sides = {side: result.get(side) for side in ("original_width", "original_height", "image_rotation", "source")}
        known = regions.setdefault(key, {"labels": [], "control": None})
        labels = _labels(value, known, where)
        control = result.get("from_name") if labels != known["labels"] else known["control"]
        regions[key] = {**known, "type": result.get("type"), **sides, **value, "labels": labels, "control": control}
    return tuple(regions.values())


def _labels(value: Values, known: Values, where: str) -> list[str]:
    lists = [value.get(key) or [] for key in LABELS]
    found = [name for names in lists for name in (names if isinstance(names, list) else [names])]
    if not all(isinstance(name, str) for name in found):
        raise UserError(f"{where}: expected names of labels, found {str(found)[:60]}")
    return list(dict.fromkeys([*known["labels"], *found]))


def _short_task(path: Path, place: PurePosixPath, number: str, records: Sequence[Values]) -> _Task:
    """A task of a JSON-MIN export, which has a record per annotation and no ids of regions."""
    annotations, where = list[tuple[Values, ...]](), f"{path}: task {number}"
    records = sorted(records, key=lambda one: str(one.get("created_at") or ""))
    for record in records:
        values = [(key, value) for key, entry in record.items() if isinstance(entry, list) for value in entry]
        regions = [
            {**value, "labels": _labels(value, {"labels": []}, where), "control": control}
            for control, value in values
            if isinstance(value, dict)
        ]
        annotations.append(tuple(regions))
    ids = tuple(str(record["annotation_id"]) for record in records)
    return _Task(where, place, records[0], tuple(annotations), number, ids)


def _item(
    tree: Tree, task: _Task, classes: Classes, options: ImportOptions, left_out: LeftOut, claims: Claims
) -> Item | None:
    """The image of a task; None if it is left out."""
    image = _image(tree, task)
    if isinstance(image, str):
        left_out[image] += 1
        return None
    if isinstance(image.image, Path):
        claims.add(str(image.image), task.where)
    if len(task.annotations) > 1 and options.annotator == "ask":
        readings = dict[str, Preview]()
        for answer, values in (("first", task.annotations[0]), ("last", task.annotations[-1])):
            regions = _regions(values, task.where, classes, LeftOut())
            readings[answer] = Preview(_painted(image, task, values, regions, options), classes.names)
        raise Ambiguous(f"{task.where} has {len(task.annotations)} annotations", "--annotator", readings)
    values = task.annotations[-1 if options.annotator == "last" else 0] if task.annotations else ()
    regions = _regions(values, task.where, classes, left_out)
    if not regions and values:
        left_out[ALL_LEFT_OUT] += 1
        return None
    if not task.annotations and options.empty == "drop":
        left_out["images without an annotation (--empty background keeps them)"] += 1
        return None
    return _painted(image, task, values, regions, options)


def _painted(
    image: Item, task: _Task, values: Sequence[Values], regions: Sequence[Region], options: ImportOptions
) -> Item:
    size = next((s for s in (_size(value, task.where) for value in values) if s), None)
    return replace(image, paint=painter(regions, options.overlap, options.background), size=size)


def _regions(values: Sequence[Values], where: str, classes: Classes, left_out: LeftOut) -> list[Region]:
    regions = list[Region]()
    for value in values:
        cover = _cover(value, where)
        if isinstance(cover, str):
            left_out[cover] += 1
            continue
        if len(value["labels"]) > 1:
            several = " and ".join(value["labels"][:2])
            raise UserError(f"{where}: a region is {several}, but a pixel has one class: keep one of the labels")
        regions.append(Region(classes.add(value["labels"][0]), cover))
    return regions


def _size(value: Values, where: str) -> Size | None:
    width, height = value.get("original_width"), value.get("original_height")
    if width is None and height is None:
        return None
    if not all(type(side) is int and 0 < side < 2**15 for side in (width, height)):
        raise UserError(f"{where}: expected original_width and original_height in pixels, found {width} and {height}")
    return int(str(width)), int(str(height))


def _cover(value: Values, where: str) -> Cover | str:
    """The pixels of a region, or why it is left out."""
    kind = _kind(value)
    if kind is None:
        return f"annotations without an area ({str(value.get('type') or 'other')[:20]})"
    if not value["labels"]:
        return "regions without a label"
    if value.get("image_rotation"):
        return "regions on an image that was turned in Label Studio"
    if kind == "file":
        return stroke(value[FILE])
    if kind == "brush":
        size = _size(value, where)
        wrong = check_brush(value["rle"], size) if size else "a brush needs original_width and original_height"
        if wrong or size is None:
            raise UserError(f"{where}: {wrong}: export it anew")
        return brush(value["rle"], size)
    if kind == "polygon":
        points = _numbers(value["points"], where, pairs=True)
        if value.get("closed") is False or len(points) < 3:
            return "polygons that are not finished"
        return relative(points / 100)
    keys = ("x", "y", "radiusX", "radiusY") if kind == "ellipse" else ("x", "y", "width", "height")
    first, second, third, fourth = _numbers([value.get(key) for key in keys], where).tolist()
    (degrees,) = _numbers([value.get("rotation") or 0], where).tolist()
    return drawn(partial(_turned, kind, (first, second, third, fourth), degrees))


def _kind(value: Values) -> Literal["file", "brush", "polygon", "ellipse", "rectangle"] | None:
    if isinstance(value.get(FILE), Path):
        return "file"
    if "rle" in value:
        return "brush"
    if "points" in value:
        return "polygon"
    if "radiusX" in value:
        return "ellipse"
    return "rectangle" if "height" in value and "width" in value and "x" in value else None


def _numbers(numbers: Any, where: str, *, pairs: bool = False) -> NDArray[np.float64]:
    try:
        result = np.array(numbers or np.zeros((0, 2)), float)
        good = bool((abs(result) < FAR).all()) and result.shape[1:] == ((2,) if pairs else ())  # NaN is not below
    except (TypeError, ValueError, OverflowError):
        good = False
    if not good:
        raise UserError(f"{where}: expected numbers in percent of the image's sides, found {str(numbers)[:60]}")
    return result


def _turned(kind: str, numbers: tuple[float, float, float, float], degrees: float, size: Size) -> Ring:
    """An ellipse around a point, or a rectangle at its upper left corner, turned around that point."""
    x, y, width, height = np.array(numbers) * (*size, *size) / 100
    if kind == "ellipse":
        ring = ellipse_ring(x, y, width, height)
    else:
        ring = np.array([(x, y), (x + width, y), (x + width, y + height), (x, y + height)])
    return rotated(ring, x, y, degrees)


def _image(tree: Tree, task: _Task) -> Item | str:
    """The image of a task, without regions; or why there is none."""
    sources = {value["source"].lstrip("$") for each in task.annotations for value in each if _named(value)}
    data = {key: text for key, text in task.data.items() if key in sources} or task.data
    if any(isinstance(value, list) and all(_is_image(v) for v in value) and value for value in data.values()):
        return "tasks of several images"
    texts = {text for text in data.values() if _is_image(text)}
    if len(texts) > 1:
        return "tasks of several images"
    text = next(iter(texts), "")
    file: Path | Callable[[], bytes]
    if text.startswith(EMBEDDED):
        file, name = partial(_embedded, text), f"{re.sub('[^A-Za-z0-9_-]', '_', task.place.stem)}_{task.number}"
    else:
        tried = [t for name in (text, task.file) if name for t in (name, PREFIX.sub(r"\1", name))]
        found = next((path for t in tried if (path := tree.find_image(t, task.place))), None)
        if found is None:
            return "images that are not there"
        file, name = tree.images[found], found
    return Item(name_of(name), file, painter((), "later"), split_of(name))


def _named(value: Values) -> bool:
    return isinstance(value.get("source"), str)


def _is_image(text: Any) -> bool:
    path = str(text).partition("?")[0] if isinstance(text, str) else ""
    ends = path.lower().endswith(IMAGE_SUFFIXES) or (isinstance(text, str) and text.lower().endswith(IMAGE_SUFFIXES))
    return path.startswith(EMBEDDED) or ends


def _embedded(text: str) -> bytes:
    return base64.b64decode(text.partition(",")[2], validate=True)
