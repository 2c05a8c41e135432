"""Hugging Face's data sets: Parquet files, or the Arrow files of ``save_to_disk``, with columns of images and masks.

https://huggingface.co/docs/datasets documents both. The features stand in the files' schema, or in
``dataset_info.json``. pyarrow reads the rows, so that nothing is copied into a cache. The column of masks is the only
image column that is called like one; options name the columns otherwise. Class names are those of ``id2label.json``,
or of a ``ClassLabel`` inside the feature of the masks: one of another column names images. Without any, the names that
are given are those of the values from 1.
A first name such as ``background`` says that the value 0 is background. Otherwise 0 may be the first class, or pixels
of none (which ``reduce_labels`` of image processors takes out): the option `first` decides.
"""

from __future__ import annotations

import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from barm.data.class_names import MOST, special_id
from barm.data.importers.annotations import Ambiguous, Annotations, Classes, ImportOptions, Item, Painted, Preview, Size
from barm.data.importers.source_tree import Tree, split_of
from barm.data.masks import check_mask_size, read_mask
from barm.errors import UserError
from barm.labels import IGNORE
from barm.reading import Unfit, check_regular, read_json, short

TITLE = "Hugging Face data set"
OPTIONS = ("first", "image_column", "label_column")
INFO, NAMES, STATE = "dataset_info.json", "id2label.json", "state.json"
MASK = re.compile(r"mask|label|annotation|segm|ground.?truth|(?<![a-z])(seg|gt)(?![a-z])")
KEPT = 4  # columns of row groups in memory
FAULTS = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
Cell = Mapping[str, Any]  # bytes and path of an image


@dataclass(frozen=True)
class _File:
    """A file of rows.

    Attributes:
        path: of the file.
        place: below the source.
        features: of its columns, as Hugging Face describes them.
        groups: numbers of rows that are read at once.
        column: reads a column of a group of rows, and remembers the last ones as long as the import lasts.
    """

    path: Path
    place: PurePosixPath
    features: Mapping[str, Any]
    groups: tuple[int, ...]
    column: Callable[..., Any] = field(repr=False)


def lacks(tree: Tree) -> str | None:
    """What a folder lacks to be of Hugging Face's format; None if it is of it."""
    saved = tree.named(INFO) and tree.with_suffix(".arrow")
    return None if saved or tree.with_suffix(".parquet") else f"no .parquet, and no {INFO} beside .arrow"


def read(tree: Tree, options: ImportOptions) -> Annotations:
    """Read all rows of a folder.

    Raises:
        UserError: if pyarrow is not installed, a file is damaged, or a mask holds a value without a name.
        Ambiguous: where the value 0 may be a class or none.
    """
    files = _files(tree)
    image, label = _columns(files, options)
    names = _names(tree, files[0], label, options)
    left_out, items, highest = Counter[str](), list[Item](), 0
    for file in files:
        split = split_of(file.place, file=True)
        for i, (name, mask) in enumerate(_rows(file, image, label)):
            where = f"{file.path}: row {i}"
            values = _values(mask, where)
            if values is None:
                left_out["images whose mask cannot be read"] += 1
                continue
            highest = max([highest, *(value for value in values if value != IGNORE)])
            if highest > len(names) - (special_id(names[0]) == 0):
                raise UserError(f"{where}: its mask holds {highest}, but there are {len(names)} names: mend {NAMES}")
            paint = partial(_paint, file, label, i, None)
            items.append(Item(name, partial(_image, file, image, i), paint, split))
    items = _own_names(items)
    if len({item.split for item in items}) == 1:  # a single split divides nothing
        items = [replace(item, split=None) for item in items]
    first, notes = _first(names, highest, items, options)
    classes, table = _table(names, first)
    painted = tuple(_with_table(item, table) for item in items)
    return Annotations(classes.names, painted, left_out, (*notes, *classes.notes()), classes.values)


def _arrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError("data sets of Hugging Face need pyarrow: pip install 'barm-seg[hf]'") from None
    return pyarrow


def _files(tree: Tree) -> list[_File]:
    """The files of rows; those of several configurations repeat each other."""
    saved = [path for info in tree.named(INFO) for path in _saved(tree, info.parent)]
    places = saved or tree.with_suffix(".parquet")
    if not places:
        raise UserError(f"{tree.root}: expected a data set of Hugging Face, found {lacks(tree)}")
    parents = sorted({str(_configuration(place)) for place in places})
    if len(parents) > 1:
        raise UserError(f"{tree.root} holds several configurations ({', '.join(parents[:5])}): give one of the folders")
    column = lru_cache(maxsize=KEPT)(_column)  # of this import alone: another one may find other files at these paths
    return [_opened(tree, place, column) for place in places]


def _saved(tree: Tree, folder: PurePosixPath) -> list[PurePosixPath]:
    """The files that ``save_to_disk`` lists; others are remains of computations."""
    state = read_json(tree.root / folder / STATE) if folder / STATE in tree.files else {}
    listed = state.get("_data_files") if isinstance(state, dict) else None
    names = {str(each.get("filename")) for each in listed or [] if isinstance(each, dict)}
    return [p for p in tree.with_suffix(".arrow") if p.parent == folder and (p.name in names or not names)]


def _configuration(place: PurePosixPath) -> PurePosixPath:
    """The folder of a file, without that of its split."""
    folder = place.parent
    return (
        folder.parent if folder.name and split_of(folder / "x") == split_of(folder.name + "/x") is not None else folder
    )


def _opened(tree: Tree, place: PurePosixPath, column: Callable[..., Any]) -> _File:
    path, arrow = tree.root / place, _arrow()
    try:
        if place.suffix.lower() == ".arrow":
            table = _mapped(path)
            schema, groups = table.schema, (table.num_rows,)
        else:
            check_regular(path)
            file = arrow.parquet.ParquetFile(path)
            schema = file.schema_arrow
            groups = tuple(file.metadata.row_group(i).num_rows for i in range(file.num_row_groups))
        told = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    except (arrow.ArrowException, OSError, ValueError, RecursionError) as error:
        raise Unfit(path, f"cannot be read ({short(error)})") from None
    features = told.get("info", {}).get("features") if isinstance(told, dict) else None
    info = place.parent / INFO
    if features is None and info in tree.files:
        content = read_json(tree.root / info)
        features = content.get("features") if isinstance(content, dict) else None
    if not isinstance(features, dict):
        raise Unfit(path, "does not say which columns are images", "write it with Hugging Face's datasets")
    return _File(path, place, features, groups, column)


def _columns(files: Sequence[_File], options: ImportOptions) -> tuple[str, str]:
    """The columns of images and of masks."""
    features = files[0].features
    found = [name for name, kind in features.items() if isinstance(kind, dict) and kind.get("_type") == "Image"]
    listed = f"{files[0].path} has the image columns {', '.join(found) or 'none'}"
    for flag, name in (("--image-column", options.image_column), ("--label-column", options.label_column)):
        if name and name not in found:
            raise UserError(f"{listed}: {flag} names '{name}'")
    masks = [name for name in found if MASK.search(name.lower()) and name != options.image_column]
    label = options.label_column or (masks[0] if len(masks) == 1 else "")
    others = [name for name in found if name != label]
    image = options.image_column or (others[0] if len(others) == 1 else "")
    if not label or not image or label == image:
        raise UserError(f"{listed}: name those of images and of masks with --image-column and --label-column")
    return image, label


def _names(tree: Tree, file: _File, label: str, options: ImportOptions) -> list[str]:
    """Names of the values from 0."""
    places = tree.named(NAMES)
    if len(places) > 1:
        raise UserError(f"{tree.root} has {places[0]} and {places[1]}: keep the one that names the masks' values")
    if places:
        content = read_json(tree.root / places[0])
        numbers = content if isinstance(content, dict) else {}
        if sorted(numbers) != sorted(map(str, range(len(numbers)))) or not numbers:
            raise UserError(f"{tree.root}: {NAMES} does not name each value from 0 once: mend it")
        return _checked([numbers[str(i)] for i in range(len(numbers))], tree)
    labels = list(_class_labels(file.features[label]))
    if len(labels) == 1:
        return _checked(labels[0], tree)
    if options.classes:
        return ["background", *options.classes]
    others = [name for name, feature in file.features.items() if name != label and list(_class_labels(feature))]
    why = f"several lists of names in '{label}'" if labels else f"no names of the values in '{label}'"
    beside = f" ('{others[0]}' has names, which are not said to be the masks')" if others else ""
    raise UserError(f"{tree.root} has {why}{beside}: add {NAMES}, or name the values from 1 with --classes")


def _checked(names: Any, tree: Tree) -> list[str]:
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or len(names) > MOST + 1:
        raise UserError(f"{tree.root}: expected up to {MOST} names of classes, found {str(names)[:60]}")
    return names


def _class_labels(feature: Any) -> Iterator[Any]:
    """The names of every ``ClassLabel`` in a description of features."""
    if isinstance(feature, dict):
        if feature.get("_type") == "ClassLabel":
            yield feature.get("names")
        for inner in feature.values():
            yield from _class_labels(inner)


def _first(
    names: Sequence[str], highest: int, items: Sequence[Item], options: ImportOptions
) -> tuple[Literal["0", "1"], tuple[str, ...]]:
    """The value of the first name, and a note on it."""
    if special_id(names[0]) == 0:
        return "0", ()
    if options.first != "ask":
        if options.first == "0" and highest == len(names):
            raise UserError(f"a mask holds {highest}, but the last of the names is that of {highest - 1} (--first 0)")
        return options.first, ()
    if highest == len(names):
        return "1", (f"masks hold {highest}, so that the names are those of 1 to {highest}, and 0 is background",)
    if not items:
        return "0", ()
    readings = dict[str, Preview]()
    for answer in ("0", "1"):
        classes, table = _table(names, answer)
        readings[answer] = Preview(_with_table(items[0], table), classes.names)
    raise Ambiguous(f"'{names[0]}' may be the value 0, or 1 above a background", "--first", readings)


def _table(names: Sequence[str], first: str) -> tuple[Classes, NDArray[np.uint8]]:
    """The classes, and the table from a mask's values to their ids, ``(256,)``."""
    classes, table = Classes(), np.zeros(256, np.uint8)
    table[IGNORE] = IGNORE
    for value, name in enumerate(names[: IGNORE - int(first)], int(first)):
        table[value] = classes.add(name, str(value))
    return classes, table


def _with_table(item: Item, table: NDArray[np.uint8]) -> Item:
    assert isinstance(item.paint, partial)
    file, column, row, _ = item.paint.args
    return replace(item, paint=partial(_paint, file, column, row, table))


def _rows(file: _File, image: str, label: str) -> Iterator[tuple[str, Cell]]:
    """Names of the images, and masks."""
    for group, number in enumerate(file.groups):
        paths, masks = file.column(file.path, group, image, "path"), file.column(file.path, group, label)
        for i in range(number):
            yield _stem((paths[i].as_py() or {}).get("path")), masks[i].as_py()


def _stem(path: Any) -> str:
    return PurePosixPath(str(path or "").replace("\\", "/")).stem


def _own_names(items: Sequence[Item]) -> list[Item]:
    """The items under the names of their files, or with numbers where those are not unique."""
    names = Counter((item.split, item.name.lower()) for item in items)
    own = all(number == 1 and name for (_, name), number in names.items())
    return list(items) if own else [replace(item, name=f"{i:06d}") for i, item in enumerate(items)]


def _values(mask: Cell, where: str) -> list[int] | None:
    """The values that a mask holds; None if it cannot be read."""
    try:
        histogram = read_mask(io.BytesIO(_bytes(mask))).histogram()
    except FAULTS as error:
        if isinstance(error, Unfit):
            raise UserError(f"{where}: {error.what}: convert the masks to ids") from None
        return None
    return [value for value, number in enumerate(histogram[:256]) if number]


def _bytes(cell: Any) -> bytes:
    content = cell.get("bytes") if isinstance(cell, dict) else None
    if not isinstance(content, bytes):
        raise ValueError("the data set holds its path alone: push_to_hub and to_parquet embed images")
    return content


def _image(file: _File, column: str, row: int) -> bytes:
    return _bytes(_cell(file, column, row))


def _paint(file: _File, column: str, row: int, table: NDArray[np.uint8] | None, size: Size) -> Painted:
    content = _bytes(_cell(file, column, row))
    check_mask_size(content, size)
    mask = read_mask(io.BytesIO(content))
    return Painted(np.asarray(mask if table is None else mask.point(table.tolist())))


def _cell(file: _File, column: str, row: int) -> Any:
    for group, number in enumerate(file.groups):
        if row < number:
            return file.column(file.path, group, column)[row].as_py()
        row -= number
    raise IndexError(row)


def _column(path: Path, group: int, column: str, part: str = "") -> Any:
    """A column of a group of rows, as pyarrow has it; of images perhaps one part alone."""
    arrow = _arrow()
    try:
        if path.suffix.lower() == ".arrow":
            return _mapped(path)[column]
        names = [f"{column}.{part}" if part else column]
        return arrow.parquet.ParquetFile(path).read_row_group(group, columns=names)[column]
    except (arrow.ArrowException, OSError, ValueError, KeyError) as error:
        raise Unfit(path, f"cannot be read ({short(error)})") from None


def _mapped(path: Path) -> Any:
    """The rows of an Arrow file, which stay on the disk until they are used."""
    arrow = _arrow()
    check_regular(path)
    return arrow.ipc.open_stream(arrow.memory_map(str(path))).read_all()
