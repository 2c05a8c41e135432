"""CVAT's segmentation masks, hostile and strange ones."""

from __future__ import annotations

import numpy as np
import pytest
from mask_writers import imported, masks, reasons, samples, save, write_cvat

from barm.data.importers import IMPORTERS
from barm.data.importers.source_tree import Tree
from barm.errors import UserError


@pytest.fixture
def export(tmp_path):
    write_cvat(tmp_path / "in", samples())
    return tmp_path / "in"


def test_a_colour_that_the_table_lacks(export, tmp_path):
    mask = np.zeros((96, 112, 3), np.uint8)
    mask[:2, :5] = (1, 2, 3)
    file = save(mask, export / "SegmentationClass" / "image1.png")
    with pytest.raises(
        UserError, match=r"10 pixels in 1 mask have 1 colour that .*labelmap.txt does not list \(#010203"
    ):
        imported(export)
    assert file.is_file()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("cat:1,2,3::", r"labelmap.txt:6: 'cat' stands twice"),
        ("cow:0,200,10::", r"labelmap.txt:6: 'hot dog|dog' and 'cow' have one colour, #00c80a"),
        ("cow:0,200::", r"labelmap.txt:6: expected name:r,g,b:parts:actions, found 'cow:0,200::'"),
        ("cow:0,200,256::", r"labelmap.txt:6: expected a colour such as"),
    ],
)
def test_a_table_that_contradicts_itself(line, message, export):
    with (export / "labelmap.txt").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(UserError, match=message):
        imported(export)


def test_an_export_without_images_says_which_option_has_them(export):
    for file in (export / "JPEGImages").iterdir():
        file.unlink()
    with pytest.raises(UserError, match=r"holds no images.*--images"):
        imported(export)


def test_images_of_no_subset_are_left_out(export):
    lists = export / "ImageSets" / "Segmentation"
    (lists / "train.txt").write_text("image0\nimage1\n")
    report = imported(export)
    assert report.images == {"train": 2, "val": 1}
    assert reasons(report) == {"images that no list of a split names": 1}


def test_an_image_in_two_subsets_is_refused(export):
    with (export / "ImageSets" / "Segmentation" / "val.txt").open("a") as file:
        file.write("image0\n")
    with pytest.raises(UserError, match=r"image0.jpg stands in the lists train and val"):
        imported(export)


def test_names_with_folders_blanks_and_windows_line_ends(export):
    """One list of everything, a folder in the names, a dot and a blank, parts and actions in the table."""
    lists = export / "ImageSets" / "Segmentation"
    for folder, suffix in (("JPEGImages", ".jpg"), ("SegmentationClass", ".png")):
        (export / folder / "day 1").mkdir()
        for i in range(4):
            (export / folder / f"image{i}{suffix}").rename(export / folder / "day 1" / f"image.{i} x{suffix}")
    for file in lists.iterdir():
        file.unlink()
    (lists / "default.txt").write_bytes(b"".join(b"day 1/image.%d x\r\n" % i for i in range(4)))
    table = export / "labelmap.txt"
    table.write_bytes(
        table.read_bytes().replace(b"cat:128,64,128::", b"cat:128,64,128:head,tail:eat").replace(b"\n", b"\r\n")
    )
    report = imported(export)
    assert sum(report.images.values()) == 4
    assert set(report.images) == {"train", "val"}
    assert sorted(masks(export)) == [f"image.{i} x" for i in range(4)]


def test_the_voc_layout_without_a_table_is_something_else(export):
    (export / "labelmap.txt").unlink()
    assert "labelmap.txt" in str(IMPORTERS["cvat"].lacks(Tree(export)))


def test_two_exports_in_one_folder(tmp_path):
    for name in ("one", "two"):
        write_cvat(tmp_path / "in" / name, samples())
    with pytest.raises(UserError, match="several exports of CVAT, one and two"):
        imported(tmp_path / "in")


def test_an_export_below_the_folder(tmp_path):
    write_cvat(tmp_path / "in" / "task", samples())
    assert imported(tmp_path / "in").images == {"train": 3, "val": 1}
