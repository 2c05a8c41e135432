"""The folder layout under other names: what is unambiguous is understood, the rest is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from barm.data.index import checked
from barm.data.sources import detect_layout, open_source
from barm.data.sources.folder import MASK_ENDINGS
from barm.errors import UserError


def fill(root: Path, images: str, masks: str, ending: str = "") -> Path:
    """A data set of four images, with masks of one class, below two folders."""
    for split in ("train", "val"):
        for i in range(2):
            for folder, name in ((images, f"{split}{i}"), (masks, f"{split}{i}{ending}")):
                path = root / folder.format(split=split) / f"{name}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB" if folder is images else "L", (20, 16), 1 if folder is masks else "red").save(path)
    (root / "classes.txt").write_text("thing\n")
    return root


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        ("images/{split}", "masks/{split}"),
        ("img_dir/{split}", "ann_dir/{split}"),
        ("images/{split}", "labels/{split}"),
        ("imgs/{split}", "masks/{split}"),
    ],
)
def test_other_names_of_the_folders(tmp_path, images, masks):
    root = fill(tmp_path / "own", images, masks)
    assert detect_layout(root) == "folder"
    assert checked(open_source("auto", root, "train")).names == ("train0", "train1")
    assert checked(open_source("auto", root, "val")).names == ("val0", "val1")


@pytest.mark.parametrize("valid", ["valid", "validation"])
def test_other_names_of_the_validation_split(tmp_path, valid):
    root = fill(tmp_path / "own", "images/{split}", "masks/{split}")
    for kind in ("images", "masks"):
        (root / kind / "val").rename(root / kind / valid)
    assert checked(open_source("folder", root, "val")).names == ("val0", "val1")


@pytest.mark.parametrize("ending", MASK_ENDINGS)
def test_masks_may_end_otherwise(tmp_path, ending):
    source = checked(open_source("folder", fill(tmp_path / "own", "images/{split}", "masks/{split}", ending), "train"))
    assert [path.stem for path in source.masks] == [f"train0{ending}", f"train1{ending}"]
    assert source.classes_in(0) == {1}
    assert not source.remarks


def test_an_image_that_itself_ends_so_keeps_its_mask(tmp_path):
    root = fill(tmp_path / "own", "images/{split}", "masks/{split}")
    for kind in ("images", "masks"):
        (root / kind / "train/train1.png").rename(root / kind / "train/train0_mask.png")
    source = checked(open_source("folder", root, "train"))
    assert dict(zip(source.names, (path.stem for path in source.masks), strict=True)) == {
        "train0": "train0",
        "train0_mask": "train0_mask",
    }


def test_two_masks_of_an_image_are_refused(tmp_path):
    root = fill(tmp_path / "own", "images/{split}", "masks/{split}")
    Image.new("L", (20, 16)).save(root / "masks/train/train0_mask.png")
    with pytest.raises(UserError, match="may both be the mask of 'train0': keep one"):
        open_source("folder", root, "train")


def test_two_folders_of_masks_are_refused(tmp_path):
    root = fill(tmp_path / "own", "images/{split}", "masks/{split}")
    (root / "labels").mkdir()
    with pytest.raises(UserError, match="has masks and labels: keep the folder that is meant"):
        open_source("folder", root, "train")


def test_labels_that_are_no_masks_lead_to_the_import(tmp_path):
    root = fill(tmp_path / "own", "images/{split}", "labels/{split}")
    for split in ("train", "val"):
        for path in list((root / "labels" / split).glob("*.png")):
            path.rename(path.with_suffix(".txt"))
    with pytest.raises(UserError, match=r"holds no mask, but files such as train0\.txt: `barm data import` makes"):
        open_source("folder", root, "train")
