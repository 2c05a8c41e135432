"""Masks find their images by name and folder, and nothing is guessed between two."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest

from barm.data.importers.mask_files import bare_stem, mask_files, pair
from barm.data.importers.source_tree import Tree
from barm.errors import UserError

LAYOUTS = {
    "folders": ("images/a.jpg", "masks/a.png"),
    "splits below": ("images/train/a.jpg", "masks/train/a.png"),
    "splits above": ("train/images/a.jpg", "train/masks/a.png"),
    "split names with words": ("train/a.png", "train_labels/a_L.png"),
    "OpenMMLab": ("img_dir/train/a.jpg", "ann_dir/train/a.png"),
    "SegNet": ("train/a.png", "trainannot/a.png"),
    "VOC": ("JPEGImages/a.jpg", "SegmentationClass/a.png"),
    "the same name": ("a.jpg", "a.png"),
    "an end of the name": ("a.jpg", "a_mask.png"),
    "both lossless": ("a.png", "a-gt.png"),
    "words in front": ("img_01.png", "mask_01.png"),
    "words on both": ("x_sat.jpg", "x_mask.png"),
    "flat masks": ("images/kitchen/a.jpg", "masks/a.png"),
    "capitals": ("Images/A.JPG", "Masks/a.PNG"),
    "a folder above all of them": ("seg/a.jpg", "seg/a.png"),
    "a dot in the name": ("images/a.b.jpg", "masks/a.b.png"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout, tmp_path):
    image, mask = LAYOUTS[layout]
    for place in (
        image,
        mask,
        image.replace("a.", "other.").replace("01", "02").replace("x_", "y_").replace("A.", "other."),
    ):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_bytes(b"")
    files = mask_files(Tree(tmp_path))
    assert files.masks == (PurePosixPath(mask),)
    assert pair(files.masks, files.images).masks == {image: PurePosixPath(mask)}


def test_overlays_and_objects_are_neither(tmp_path):
    for place in ("images/a.jpg", "masks/a.png", "overlays/a.png", "SegmentationObject/a.png"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_bytes(b"")
    files = mask_files(Tree(tmp_path))
    assert (files.images, files.masks) == (("images/a.jpg",), (PurePosixPath("masks/a.png"),))


def test_equal_names_in_other_splits_are_not_mixed_up():
    pairs = pair([PurePosixPath("val/masks/a.png")], ["train/images/a.jpg"])
    assert (pairs.masks, pairs.lost) == ({}, (PurePosixPath("val/masks/a.png"),))


def test_two_images_of_a_mask_are_refused():
    with pytest.raises(UserError, match=r"masks/a.png may be the mask of images/x/a.jpg or images/y/a.jpg"):
        pair([PurePosixPath("masks/a.png")], ["images/x/a.jpg", "images/y/a.jpg"])


def test_words_are_taken_from_both_ends():
    assert [bare_stem(s) for s in ("a_gt", "label_a_mask", "masked", "a_maskx", "gt")] == [
        "a",
        "a",
        "masked",
        "a_maskx",
        "gt",
    ]
