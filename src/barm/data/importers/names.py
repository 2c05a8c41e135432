"""Names of imported images in the new folder: safe, of one image each, and no longer than they need to be."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import replace
from os.path import commonpath
from pathlib import Path, PurePosixPath, PureWindowsPath

from barm.data.importers.annotations import Item
from barm.data.sources.folder import NAMED
from barm.data.sources.tree import is_clutter
from barm.errors import UserError

UNSEEN = ("Cc", "Cs", "Zl", "Zp")  # Unicode's categories of characters that end a line, or that nobody sees


def file_name(item: Item) -> str:
    """The item's name in the new folder: below its split."""
    return f"{item.split}/{item.name}" if item.split else item.name


def source_of(item: Item) -> str:
    """Where an item came from, for messages."""
    return str(item.image) if isinstance(item.image, Path) else item.name


def check_names(items: Iterable[Item]) -> None:
    """Refuse names that lead out of the new folder, or that no list of names can hold.

    Raises:
        UserError: for the first of them.
    """
    for item in items:
        fault = _fault(file_name(item))
        if fault:
            raise UserError(
                f"the image name {ascii(item.name)[:80]} {fault}: expected a path below the source such as 'scene/01'; "
                "rename the image"
            )


def _fault(name: str) -> str | None:
    """Why a name cannot be that of a file in the new folder; None if it can."""
    parts = name.split("/")
    if name.startswith("/") or PureWindowsPath(name).drive:
        return "is absolute"
    if ".." in parts:
        return "leads out of the folder"
    if "\\" in name or any(unicodedata.category(c) in UNSEEN for c in name):
        return "has a character that file names may not have everywhere"
    if any(not part.strip() or is_clutter(part) for part in parts) or name != name.strip():
        return "has a part that is empty, begins with a dot, or stands beside a space"
    return None


def no_twins(items: Iterable[Item]) -> None:
    """Refuse two images of one name, also where capitals do not count."""
    seen = dict[str, Item]()
    for item in items:
        name = file_name(item)
        if name.lower() in seen:
            raise UserError(
                f"two images are called '{name}' ({source_of(seen[name.lower()])}, {source_of(item)}): masks are named "
                "like images, rename one"
            )
        seen[name.lower()] = item


def undivided(items: Sequence[Item]) -> tuple[Item, ...]:
    """The items of all splits as those of none; where two have one name, their splits become parts of all names."""
    same = len({item.name for item in items}) < len(items)
    return tuple(
        replace(item, split=None, name=f"{item.split}-{item.name}" if same and item.split else item.name)
        for item in items
    )


def shortened(items: Sequence[Item]) -> tuple[Item, ...]:
    """The items under names without the folders that all images of their split have in common.

    Raises:
        UserError: as `check_names`.
    """
    check_names(items)
    starts = dict[str | None, str]()
    for split in {item.split for item in items}:
        parents = [PurePosixPath(item.name).parent.as_posix() for item in items if item.split == split]
        starts[split] = commonpath(parents) or "."
    return tuple(
        replace(item, name=PurePosixPath(item.name).relative_to(starts[item.split]).as_posix()) for item in items
    )


def divided_anew(items: Sequence[Item]) -> tuple[tuple[Item, ...], tuple[str, ...]]:
    """Take the split from items of which none is in ``train``, or none in ``val``; returns them with a note.

    ``test`` stays what it is beside another split.

    Raises:
        UserError: if some items have a split and others do not.
    """
    splits = {item.split for item in items}
    if None in splits and len(splits) > 1:
        lost = next(item for item in items if item.split is None)
        raise UserError(f"{source_of(lost)} belongs to no split, but other images do: put it in a folder train or val")
    if None in splits or {"train", "val"} <= splits or not splits:
        return tuple(items), ()
    alone = min(splits - {"test"}, default="test", key=str)
    missing = "train" if alone == "val" else "val"
    note = f"the source has a {alone} split, but no {missing} split: the images of {alone} are divided anew (--val)"
    return tuple(
        replace(item, split=None, name=_without_split(item.name)) if item.split == alone else item for item in items
    ), (note,)


def _without_split(name: str) -> str:
    """A name without a first folder that would be a split's."""
    first, _, rest = name.partition("/")
    return rest if rest and first.lower() in NAMED else name
