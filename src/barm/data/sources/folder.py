"""The layout of a user's own data set: images/, masks/ and classes.txt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from barm.data.class_names import names_and_colours
from barm.data.class_values import FILE, ClassValues, read_class_values
from barm.data.images import IMAGE_SUFFIXES
from barm.data.sources.files import FileSource, pairs
from barm.data.sources.tree import (
    HELD_BACK,
    MASK_SUFFIXES,
    SPLITS,
    Files,
    Layout,
    Remark,
    find_root,
    listed,
    loose,
    no_twins,
    other_folders,
    split_folder,
    strangers,
    unused,
)
from barm.data.splits import VAL_SHARE, divide
from barm.errors import UserError

LAYOUT = Layout("folder", (("images",), ("masks",)))
NAMED = (*SPLITS["train"], *SPLITS["val"], *HELD_BACK)  # sub-folders that are no part of an undivided folder


def open_folder(root: Path, split: str, class_names: Sequence[str] = ()) -> FileSource:
    """Open a split of a plain folder.

    The split is given by sub-folders ``images/train``, ``images/val`` (and the same below masks), or by lists of names
    ``train.txt`` and ``val.txt``. Where nothing says what is held out, it is a fifth of the images, chosen by a hash
    of their names, and at least one. Other sub-folders are part of the names: ``images/a/b.jpg`` and ``masks/a/b.png``.

    Args:
        root: holds images/, masks/ and classes.txt, or is up to two levels above.
        split: ``train`` or ``val``.
        class_names: of the ids 1, 2, ..., where there is neither ``classes.txt`` nor ``classes.toml``.

    Raises:
        UserError: for missing folders, lists or files, or two images of one name.
    """
    root = find_root(root, LAYOUT)
    place = _place(root, split)
    images = Files(place.images, IMAGE_SUFFIXES, deep=True, without=() if place.divided else NAMED)
    masks = Files(place.masks, MASK_SUFFIXES, deep=True, without=() if place.divided else NAMED)
    no_twins(images, "images")
    no_twins(masks, "masks")
    names = sorted(images) if place.whole else _split(root, split, images)
    used = names if place.whole else {*names, *_split(root, "val" if split == "train" else "train", images)}
    image_files, mask_files = pairs(root, split, images, masks, names)
    values = _class_values(root)
    known, palette = names_and_colours(root, None, values.names if values else class_names)
    remarks = [
        *unused(images, used, "images", "in neither list"),
        *unused(masks, images, "masks", "without an image"),
        *strangers(images, "images"),
        *strangers(masks, "masks"),
        *_beside(root),
    ]
    return FileSource(
        root,
        split,
        tuple(names),
        image_files,
        mask_files,
        known,
        palette,
        values=values,
        remarks=tuple(dict.fromkeys(remarks)),
    )


def _class_values(root: Path) -> ClassValues | None:
    """Read the folder's ``classes.toml``, if it has one."""
    path = root / FILE
    if not path.exists():
        return None
    if (root / "classes.txt").exists():
        raise UserError(f"{root} has a classes.txt beside {FILE}: keep the one that says what the masks hold")
    return read_class_values(path)


def write_split(root: Path, share: float = VAL_SHARE, group_by: str = "") -> dict[str, int]:
    """Write ``train.txt`` and ``val.txt`` of a folder; returns the numbers of images.

    Args:
        root: holds images/, which must not be divided by sub-folders.
        share: of the images for validation.
        group_by: as in `barm.data.splits.divide`.

    Raises:
        UserError: for a folder without images, or one that is divided already.
    """
    folder = root / "images"
    divided = [place for names in SPLITS.values() for name in names if (place := folder / name).is_dir()]
    if divided:
        raise UserError(f"{divided[0]} divides the images already: a split by lists needs all of them in {folder}")
    parts = divide(sorted(Files(folder, IMAGE_SUFFIXES, deep=True)), share, group_by)
    for part, names in parts.items():
        (root / f"{part}.txt").write_text("".join(f"{name}\n" for name in names), "utf-8")
    return {part: len(names) for part, names in parts.items()}


class _Place(NamedTuple):
    """The folders of a split, whether they are the split's own, and whether all of their files belong to it."""

    images: Path
    masks: Path
    divided: bool
    whole: bool


def _place(root: Path, split: str) -> _Place:
    """Find the split's sub-folders, or the folders that lists or a hash divide."""
    images, masks = ({s: split_folder(root / kind, s) for s in SPLITS} for kind in ("images", "masks"))
    own, train, val = images[split], images["train"], images["val"]
    if own is None and split == "val":
        own = train
    if own is None:  # images beside images/val
        return _Place(root / "images", root / "masks", False, val is not None)
    of = split if images[split] is not None else "train"
    return _Place(own, masks[of] or root / "masks" / own.name, True, val is not None)


def _beside(root: Path) -> list[Remark]:
    """Files beside the sub-folders of the splits."""
    remarks = list[Remark]()
    for kind, suffixes in (("images", IMAGE_SUFFIXES), ("masks", MASK_SUFFIXES)):
        used = [place for s in SPLITS if (place := split_folder(root / kind, s)) is not None]
        if split_folder(root / "images", "train") is not None:
            remarks += [*other_folders(root / kind, used), *loose(root / kind, suffixes)]
        else:
            remarks += [r for r in other_folders(root / kind, used) if r.level == "note"]
    return remarks


def _split(root: Path, split: str, images: Files) -> list[str]:
    """Select the images of a split by the lists, or by a hash of their names."""
    lists, names = {name: root / f"{name}.txt" for name in ("train", "val")}, sorted(images)
    if lists[split].is_file():
        return listed(lists[split], images)
    other = lists["val" if split == "train" else "train"]
    if other.is_file():
        taken = set(listed(other, images))
        return [n for n in names if n not in taken]
    return divide(names, VAL_SHARE)[split]
