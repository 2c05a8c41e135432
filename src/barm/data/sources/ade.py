"""ADE20K, the scene parsing challenge of 2016. Source: spec/ssul.md section 2."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from barm.data.class_names import names_and_colours
from barm.data.images import IMAGE_SUFFIXES
from barm.data.palette import published
from barm.data.sources.files import FileSource, pairs
from barm.data.sources.tree import (
    MASK_SUFFIXES,
    SPLITS,
    Files,
    Layout,
    find_root,
    loose,
    no_twins,
    other_folders,
    split_folder,
    strangers,
    unused,
)
from barm.errors import UserError

LAYOUT = Layout(
    "ADE20K", tuple(tuple(f"{kind}/{name}" for name in SPLITS["train"][::-1]) for kind in ("images", "annotations"))
)
MARK = "objectInfo150.txt"  # lies in the published archive


def open_ade(root: Path, split: str, class_names: Sequence[str] = ()) -> FileSource:
    """Open a split of ADEChallengeData2016. Id 0 (other) serves as background.

    Args:
        root: holds images/ and annotations/ with training/ and validation/, or is up to two levels above.
        split: ``train`` or ``val``.
        class_names: of the ids 1, 2, ..., where there is no ``classes.txt``.

    Raises:
        UserError: for missing folders or files, or for other data than ADE20K without names of the classes.
    """
    root = find_root(root, LAYOUT)
    found = [split_folder(root / kind, split) for kind in ("images", "annotations")]
    if None in found:
        lacks = [kind for kind, place in zip(("images", "annotations"), found, strict=True) if place is None]
        raise UserError(f"{root}/{lacks[0]} lacks {' or '.join(SPLITS[split][::-1])}: expected the {split} split there")
    images, masks = (
        Files(place, suffixes, deep=True)
        for place, suffixes in zip(found, (IMAGE_SUFFIXES, MASK_SUFFIXES), strict=True)
        if place is not None
    )
    no_twins(images, "images")
    no_twins(masks, "masks")
    names = sorted(images)
    image_files, mask_files = pairs(root, split, images, masks, names)
    known, palette = names_and_colours(root, published("ade") if _is_published(root, names) else None, class_names)
    remarks = [*unused(masks, names, "masks", "without an image"), *strangers(images, "images")]
    remarks += strangers(masks, "masks")
    for kind, suffixes in (("images", IMAGE_SUFFIXES), ("annotations", MASK_SUFFIXES)):
        used = [place for s in SPLITS if (place := split_folder(root / kind, s)) is not None]
        remarks += [*other_folders(root / kind, used), *loose(root / kind, suffixes)]
    return FileSource(
        root, split, tuple(names), image_files, mask_files, known, palette, remarks=tuple(dict.fromkeys(remarks))
    )


def _is_published(root: Path, names: Sequence[str]) -> bool:
    """Whether it is ADE20K itself, so that its 150 names are those of the masks."""
    return (root / MARK).is_file() or all(re.fullmatch(r"ADE_(train|val)_\d{8}", Path(name).name) for name in names)
