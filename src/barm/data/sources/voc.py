"""PASCAL VOC 2012, with the augmented masks or VOC's own alone. Source: spec/ssul.md section 2."""

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
    Files,
    Layout,
    Remark,
    find_root,
    listed,
    no_twins,
    strangers,
    unused,
)
from barm.errors import UserError
from barm.escaping import command
from barm.words import count

AUGMENTED, OWN = "SegmentationClassAug", "SegmentationClass"
LAYOUT = Layout("VOC", (("JPEGImages",), (AUGMENTED, OWN)))
LISTS = ("ImageSets/Segmentation", "ImageSet/Segmentation", "ImageSets", "ImageSet", "splits")  # official, papers, MiB
SALIENCY = "saliency_map"


def open_voc(root: Path, split: str, class_names: Sequence[str] = ()) -> FileSource:
    """Open a split of VOC 2012.

    Training is ``train_aug.txt`` where it exists, else every mask of SegmentationClassAug that is not in val.txt.
    Without that folder it is VOC's own ``train.txt`` with the masks of SegmentationClass.

    Args:
        root: holds JPEGImages, SegmentationClassAug (or SegmentationClass) and the lists, in ImageSets/Segmentation,
            ImageSet/Segmentation or MiB's splits; or is up to two levels above.
        split: ``train`` or ``val``.
        class_names: of the ids 1, 2, ..., where there is no ``classes.txt``.

    Raises:
        UserError: for missing folders, lists or files, or for other data than VOC without names of the classes.
    """
    root = find_root(root, LAYOUT)
    augmented = (root / AUGMENTED).is_dir()
    images = Files(root / "JPEGImages", IMAGE_SUFFIXES)
    masks = Files(root / (AUGMENTED if augmented else OWN), MASK_SUFFIXES)
    no_twins(images, "images")
    no_twins(masks, "masks")
    val = listed(_list(root, "val"), images)
    train = _train(root, val, images, masks, augmented)
    names = train if split == "train" else val
    image_files, mask_files = pairs(root, split, images, masks, names)
    maps, saliency = _maps(root) if split == "train" else None, tuple[Path, ...]()
    if maps is not None:
        saliency = tuple(maps[n] for n in names)
    known, palette = names_and_colours(root, published("voc") if _is_published(names) else None, class_names)
    used = {*train, *val}
    remarks = [
        *([] if augmented else [_without_augmented(root, train)]),
        *unused(images, used, "images", "in neither list", "note"),
        *unused(masks, used, "masks", "in neither list"),
        *strangers(images, "images"),
        *strangers(masks, "masks"),
    ]
    return FileSource(
        root,
        split,
        tuple(names),
        image_files,
        mask_files,
        known,
        palette,
        saliency,
        remarks=tuple(remarks),
        maps_folder=root / SALIENCY,
    )


def _list(root: Path, name: str) -> Path:
    """Find the list of that name; the official path if there is none.

    Raises:
        UserError: if several places have lists that differ.
    """
    found = [path for place in LISTS if (path := root / place / f"{name}.txt").is_file()]
    for other in found[1:]:
        if listed(other, {}) != listed(found[0], {}):
            raise UserError(f"{found[0]} and {other} name different images: keep one of them")
    return found[0] if found else root / LISTS[0] / f"{name}.txt"


def _train(root: Path, val: Sequence[str], images: Files, masks: Files, augmented: bool) -> list[str]:
    """Names of the training images."""
    path = _list(root, "train_aug" if augmented else "train")
    if path.is_file():
        return listed(path, images)
    held_out = set(val)
    return [name for name in masks if name not in held_out]


def _maps(root: Path) -> Files | None:
    """Saliency maps, if their folder exists."""
    return Files(root / SALIENCY, (".png",)) if (root / SALIENCY).is_dir() else None


def _without_augmented(root: Path, train: Sequence[str]) -> Remark:
    return Remark(
        "warning",
        f"{root} has no {AUGMENTED}: it trains on the {count(len(train), 'images')} of VOC's own lists, "
        f"published results on 10 582; {command(['barm', 'data', 'get', 'voc', root])} fetches the further masks",
    )


def _is_published(names: Sequence[str]) -> bool:
    """Whether it is VOC itself, so that its 20 names are those of the masks."""
    return all(re.fullmatch(r"\d{4}_\d{6}", name) for name in names)
