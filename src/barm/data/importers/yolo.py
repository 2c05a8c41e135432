"""YOLO segmentation: a text file of polygons per image, and a YAML file that names the classes and the splits.

https://docs.ultralytics.com/datasets/segment/ specifies it. The label file of ``images/train/a.jpg`` is
``labels/train/a.txt``; a file beside the image serves as well. An empty label file says that the image shows none of
the classes, so that the image is background. An image without a label file may not have been labelled at all: the
option `empty` decides. Without YAML the names may stand in ``classes.txt`` or ``obj.names``, one per line from 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from barm.data.importers.annotations import BOXES, Annotations, Classes, ImportOptions, Item, LeftOut, Region
from barm.data.importers.regions import painter, relative
from barm.data.importers.source_tree import Tree, name_of, split_of
from barm.errors import UserError
from barm.escaping import normal
from barm.labels import IGNORE
from barm.reading import read_text, read_yaml
from barm.words import natural

TITLE = "YOLO segmentation"
OPTIONS = ("overlap", "boxes", "empty", "background")
LISTS = ("classes.txt", "obj.names")
KEYS = {"train": "train", "val": "val", "test": "test"}
HAIR = 0.005  # of the image's side, by which a coordinate may leave it: exports round


@dataclass(frozen=True)
class _Description:
    """What a source says of its classes and splits.

    Attributes:
        place: the file, below the source.
        names: class names by index.
        base: the folder that entries of splits are relative to.
        entries: folders or lists of images by split.
    """

    place: PurePosixPath
    names: Mapping[int, str]
    base: str = ""
    entries: Mapping[str, Sequence[str]] = field(default_factory=dict)


def lacks(tree: Tree) -> str | None:
    """What a folder lacks to be of YOLO's format; None if it is of it."""
    if not any(_is_label(tree, path) for path in tree.with_suffix(".txt")):
        return "no .txt with lines such as '0 0.1 0.2 0.3 0.2 0.3 0.4'"
    named = any(_names_classes(tree, path) for path in tree.with_suffix(".yaml", ".yml")) or tree.named(*LISTS)
    return None if named else "no .yaml with 'names', and no classes.txt, to name the classes"


def read(tree: Tree, options: ImportOptions) -> Annotations:
    """Read all label files of a folder.

    Raises:
        UserError: for a label file that is not as specified, or a YAML file that contradicts itself.
    """
    described = _describe(tree)
    classes = Classes(where=tree.root / described.place)
    ids = {index: classes.add(name, str(index)) for index, name in sorted(described.names.items())}
    left_out, notes = LeftOut(), list[str]()
    splits = _splits(tree, described, left_out, notes)
    labels = {_key(path, "labels"): path for path in tree.with_suffix(".txt") if path.name.lower() not in LISTS}
    items, used = list[Item](), set[str]()
    for image, path in tree.images.items():
        key = _key(PurePosixPath(image), "images")
        used.add(key)
        if splits is not None and image not in splits:
            left_out[f"images that {described.place} does not list"] += 1
            continue
        regions = _regions(tree, labels[key], ids, options, left_out) if key in labels else []
        if key not in labels and options.empty == "drop":
            left_out.add("images without a label file (--empty background keeps them)", image)
            continue
        split = splits[image] if splits is not None else split_of(image)
        items.append(Item(name_of(image), path, painter(regions, options.overlap, options.background), split))
    lost = [path for key, path in labels.items() if key not in used and _is_label(tree, path)]
    if lost:
        left_out.add("label files without an image", *lost)
    return Annotations(classes.names, tuple(items), left_out.counts(), (*notes, *classes.notes()), classes.values)


def _is_label(tree: Tree, path: PurePosixPath) -> bool:
    """Whether a file's first line is a class and coordinates."""
    line = tree.peek(path).strip().partition("\n")[0].split()
    return len(line) >= 5 and line[0].isdigit() and all(_number(word) is not None for word in line)


def _names_classes(tree: Tree, path: PurePosixPath) -> bool:
    return any(line.startswith(("names:", "names :", '"names":')) for line in tree.peek(path).splitlines())


def _number(word: str) -> float | None:
    try:
        number = float(word)
    except ValueError:
        return None
    return number if np.isfinite(number) and "_" not in word else None


def _key(path: PurePosixPath, folder: str) -> str:
    """What an image and its label file have in common: the path without suffix and the last folder of that name."""
    parts = list(path.with_suffix("").parts)
    for i in reversed(range(len(parts) - 1)):
        if parts[i].lower() == folder:
            del parts[i]
            break
    return normal("/".join(parts))


def _describe(tree: Tree) -> _Description:
    """Read the file that names the classes."""
    found = [_from_yaml(tree, p) for p in tree.with_suffix(".yaml", ".yml") if _names_classes(tree, p)]
    found = found or [_from_list(tree, path) for path in tree.named(*LISTS)]
    if not found:
        raise UserError(f"{tree.root}: no file names the classes: add data.yaml with names: [first, second, ...]")
    first = min(found, key=lambda one: (len(one.place.parts), one.place.name != "data.yaml"))
    _check_names(first.names, tree.root / first.place)
    for other in found:
        if other.names != first.names:
            raise UserError(f"{tree.root}: {first.place} and {other.place} name other classes: keep one of them")
    return first


def _check_names(names: Mapping[int, str], path: Path) -> None:
    """Refuse two classes of one name."""
    seen = dict[str, int]()
    for index, name in names.items():
        first = seen.setdefault(" ".join(normal(name).split()), index)
        if first != index:
            raise UserError(f"{path}: the classes {first} and {index} are both called '{name}': give each its own name")


def _from_list(tree: Tree, place: PurePosixPath) -> _Description:
    lines = read_text(tree.root / place).strip().splitlines()
    return _Description(place, dict(enumerate(line.strip() for line in lines)))


def _from_yaml(tree: Tree, place: PurePosixPath) -> _Description:
    path = tree.root / place
    content = read_yaml(path)
    names = content.get("names") if isinstance(content, dict) else None
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names:
        raise UserError(f"{path}: expected names: [first, second, ...], found {str(names)[:60]}")
    if "kpt_shape" in content:
        raise UserError(f"{path}: its labels are key points (kpt_shape), which have no area: export polygons")
    named = {_index(index, path): _class_name(name, index, path) for index, name in names.items()}
    if content.get("nc") not in (None, len(named)):
        raise UserError(f"{path}: nc is {str(content['nc'])[:20]}, but names has {len(named)}: make them agree")
    entries = {split: _texts(content.get(key), key, path) for key, split in KEYS.items()}
    base = content.get("path")
    return _Description(place, named, base if isinstance(base, str) else "", entries)


def _index(index: Any, path: Path) -> int:
    number = natural(index) if type(index) is str else None
    if number is not None:
        return number
    if type(index) is not int or index < 0:
        raise UserError(f"{path}: expected a class's number from 0 in names, found {str(index)[:40]}")
    return index


def _class_name(name: Any, index: Any, path: Path) -> str:
    if type(name) is int:
        return str(name)
    if not isinstance(name, str):
        raise UserError(f"{path}: the name of class {index} is read as {str(name)[:40]}: write it in quotes")
    return name


def _texts(entry: Any, key: str, path: Path) -> list[str]:
    entries = entry if isinstance(entry, list) else [] if entry is None else [entry]
    if not all(isinstance(each, str) for each in entries):
        raise UserError(f"{path}: expected a folder, a list of images or several of them in {key}, found {entry!r:.60}")
    return [each for each in entries if each.strip()]


def _splits(tree: Tree, described: _Description, left_out: LeftOut, notes: list[str]) -> dict[str, str | None] | None:
    """The split of every listed image; None if the description lists none that is there."""
    members = dict[str, set[str]]()
    for split, entries in described.entries.items():
        for entry in entries:
            found = _members(tree, described, entry, left_out)
            if found is None:
                notes.append(f"{described.place} has {split}: {entry}, which is not there")
            else:
                members.setdefault(split, set()).update(found)
    if not members:
        return None
    anew = False
    for one, other in combinations(members, 2):
        both = members[one] & members[other]
        if both and members[one] != members[other]:
            raise UserError(
                f"{tree.root / described.place}: {min(both)} is in {one} and in {other}: take it out of one"
            )
        if both:
            anew = anew or (one, other) == ("train", "val")
            counted = "divided anew" if anew else f"taken for {one}"
            notes.append(f"{one} and {other} are the same images in {described.place}: they are {counted}")
    if anew:
        return dict.fromkeys(members["train"])
    return {image: split for split in reversed(members) for image in members[split]}


def _members(tree: Tree, described: _Description, entry: str, left_out: LeftOut) -> set[str] | None:
    """The images of a folder or a list; None if it is not there.

    The end of the path counts, since the source may have been moved from where it was made: of ``../train/images`` it
    is ``train/images``.
    """
    here = described.place.parent
    for path in _ends(f"{described.base}/{entry}", entry):
        for place in dict.fromkeys((here / path, path)):
            if place in tree.files and place.suffix.lower() == ".txt":
                return _listed(tree, place, left_out)
            inside = {image for image in tree.images if place in PurePosixPath(image).parents}
            if inside:
                return inside
    return None


def _ends(*paths: str) -> Iterator[PurePosixPath]:
    """The paths, and what is left of them without their first folders."""
    for path in paths:
        parts = [p for p in PurePosixPath(normal(path.replace("\\", "/"))).parts if p not in ("/", "..")]
        for start in range(len(parts)):
            yield PurePosixPath(*parts[start:])
        if not parts:
            yield PurePosixPath()


def _listed(tree: Tree, place: PurePosixPath, left_out: LeftOut) -> set[str]:
    lines = [line.strip() for line in read_text(tree.root / place).splitlines() if line.strip()]
    found = [tree.find_image(line, place) for line in lines]
    if None in found:
        left_out["images that are not there"] += found.count(None)
    return {image for image in found if image is not None}


def _regions(
    tree: Tree,
    place: PurePosixPath,
    ids: Mapping[int, int],
    options: ImportOptions,
    left_out: LeftOut,
) -> list[Region]:
    """The regions of a label file."""
    regions, path = list[Region](), tree.root / place
    lines = [(i, line.split()) for i, line in enumerate(read_text(path).splitlines(), 1) if line.strip()]
    for i, words in lines:
        index, numbers = _parse(words, f"{path}:{i}")
        if index not in ids:
            raise UserError(f"{path}:{i}: there is no name for class {index}: add it to the names, or mend the number")
        if len(numbers) == 4:
            x, y, width, height = numbers
            corners = [(x + i * width / 2, y + j * height / 2) for i, j in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
            cover = relative(np.array(corners))
            filled = options.boxes == "fill"
            if not filled:
                left_out.add(BOXES, f"{place}:{i}")
            regions.append(Region(ids[index], cover) if filled else Region(IGNORE, cover, below=True))
        else:
            regions.append(Region(ids[index], relative(np.array(numbers).reshape(-1, 2))))
    return regions


def _parse(words: Sequence[str], where: str) -> tuple[int, list[float]]:
    """The class and the coordinates of a line."""
    numbers = [_number(word) for word in words]
    first, *rest = numbers
    if first is None or first < 0 or first != int(first) or len(rest) < 4 or len(rest) % 2:
        raise UserError(
            f"{where}: expected a class's number and pairs of x and y, or x, y, width and height, found "
            f"'{' '.join(words)[:40]}' of {len(words)}"
        )
    for word, number in zip(words[1:], rest, strict=True):
        if number is None:
            raise UserError(f"{where}: expected numbers, found '{word[:40]}'")
        if not -HAIR <= number <= 1 + HAIR:
            raise UserError(
                f"{where}: the coordinate {word[:40]} is not between 0 and 1: divide x by the image's width, y by its "
                "height"
            )
    return int(first), [number for number in rest if number is not None]
