"""Which class a mask of one class is of: its folder or its file's name says it."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import PurePosixPath
from typing import NamedTuple

from barm.data.importers.mask_files import (
    IMAGE_WORDS,
    MASK_WORDS,
    ImageFinder,
    bare_stem,
    mask_files,
    place_of,
)
from barm.data.importers.source_tree import Tree, split_of
from barm.errors import UserError
from barm.escaping import normal

_SEPARATOR = re.compile(r"[\s_.\-]+")


class ClassMask(NamedTuple):
    """A mask of one class of an image.

    Attributes:
        mask: below the source.
        image: a key of `Tree.images`.
        name: of the class; empty if nothing says it.
    """

    mask: PurePosixPath
    image: str
    name: str


Reading = Callable[[PurePosixPath, ImageFinder], ClassMask | None]


def by_class(tree: Tree) -> bool:
    """Whether names of folders or files tell classes apart."""
    try:
        return any(each.name and not each.name.isdigit() for each in class_masks(tree))
    except UserError:  # a mask that may belong to several images, which reading it tells
        return False


@lru_cache(maxsize=2)
def class_masks(tree: Tree) -> tuple[ClassMask, ...]:
    """The class and the image of every mask that has an image, by the rule that fits most of them.

    The rules are, in this order: a mask is named like its image, in a folder of its class (``masks/cat/a.png``); its
    name is the image's and the class's (``a_cat.png``); it is named like its class, in a folder of its image
    (``a/cat.png``).

    Raises:
        UserError: if a mask may belong to several images.
    """
    files = mask_files(tree)
    finder = ImageFinder(files.images)
    readings = [
        tuple(found for mask in files.masks if (found := reading(mask, finder)) is not None)
        for reading in (_class_folder, _class_in_name, _image_folder)
    ]
    return max(readings, key=len)  # the first of several that fit equally well


def _class_folder(mask: PurePosixPath, finder: ImageFinder) -> ClassMask | None:
    """The nearest folder that neither says what is in it nor belongs to the image's place."""
    place = place_of(mask)
    image = finder.find(mask.stem, place, mask)
    if image is not None and set(place) <= set(place_of(PurePosixPath(image))):
        return ClassMask(mask, image, "")
    for part in reversed(mask.parts[:-1]):
        if not _is_class(part):
            continue
        rest = place_of(_without(mask, part))
        image = finder.find(mask.stem, rest, mask)
        if image is not None:
            return ClassMask(mask, image, bare_stem(normal(part)))
    return None


def _class_in_name(mask: PurePosixPath, finder: ImageFinder) -> ClassMask | None:
    """The longest beginning of the name that is an image's; the rest is the class."""
    stem = normal(mask.stem)
    place = place_of(mask)
    image = finder.find(stem, place, mask)
    if image is not None:
        return ClassMask(mask, image, "")
    for cut in reversed(list(_SEPARATOR.finditer(stem))):
        image = finder.find(stem[: cut.start()], place, mask) if cut.start() else None
        name = _class_words(stem[cut.end() :])
        if image is not None and name:
            return ClassMask(mask, image, name)
    return None


def _image_folder(mask: PurePosixPath, finder: ImageFinder) -> ClassMask | None:
    """The folder is an image's name, the file's name the class."""
    folder = mask.parent
    image = finder.find(folder.name, place_of(folder), mask) if folder.name else None
    name = _class_words(normal(mask.stem))
    return None if image is None else ClassMask(mask, image, name)


def _class_words(text: str) -> str:
    """A class name without words that say that a file is a mask."""
    bare = bare_stem(text)
    return "" if bare.lower() in MASK_WORDS else bare


def _is_class(part: str) -> bool:
    bare = place_of(PurePosixPath(part) / "file")
    return bool(bare) and split_of(f"{part}/file") is None and part.lower() not in IMAGE_WORDS


def _without(mask: PurePosixPath, part: str) -> PurePosixPath:
    """The path without its last folder of this name."""
    parts = list(mask.parts)
    del parts[len(parts) - 1 - parts[::-1].index(part)]
    return PurePosixPath(*parts)
