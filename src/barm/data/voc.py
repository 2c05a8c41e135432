"""PASCAL VOC 2012 with the augmented masks. Source: spec/ssul.md section 2."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from barm.data.files import Files, FileSource, find_root, names_and_colours, pairs, read_lines
from barm.data.palette import published

FOLDERS = ("JPEGImages", "SegmentationClassAug")


def open_voc(root: Path, split: str, class_names: Sequence[str] = ()) -> FileSource:
    """A split of VOC 2012.

    Training is ``train_aug.txt`` where it exists, else every mask of SegmentationClassAug that is not in val.txt.

    Args:
        root: holds JPEGImages, SegmentationClassAug and ImageSets/Segmentation; its parent is accepted.
        split: ``train`` or ``val``.
        class_names: of the ids 1, 2, ..., where there is no ``classes.txt``.

    Raises:
        UserError: for missing folders, lists or files.
    """
    root = find_root(root, FOLDERS, "VOC")
    images, masks = Files(root / "JPEGImages", (".jpg", ".jpeg")), Files(root / "SegmentationClassAug", (".png",))
    lists = root / "ImageSets/Segmentation"
    if split == "train" and (lists / "train_aug.txt").is_file():
        names = _ids(lists / "train_aug.txt")
    else:
        names = _ids(lists / "val.txt")
        if split == "train":
            held_out = set(names)
            names = [n for n in masks if n not in held_out]
    image_files, mask_files = pairs(root, split, images, masks, names)
    saliency: tuple[Path, ...] = ()
    if split == "train" and (root / "saliency_map").is_dir():
        saliency = pairs(root, split, images, Files(root / "saliency_map", (".png",)), names)[1]
    known, palette = names_and_colours(root, published("voc"), class_names)
    return FileSource(root, split, tuple(names), image_files, mask_files, known, palette, saliency)


def _ids(path: Path) -> list[str]:
    """Picture ids of a list whose lines are ids or pairs of paths."""
    return [Path(line.split()[0]).stem for line in read_lines(path)]
