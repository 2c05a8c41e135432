"""Masks in colour, hostile and strange ones."""

from __future__ import annotations

import numpy as np
import pytest
from mask_writers import SIZE, entries, ids_of, imported, masks, samples, write_colours
from PIL import Image, ImageFilter

from barm.errors import UserError


@pytest.fixture
def source(tmp_path):
    write_colours(tmp_path / "in", samples())
    return tmp_path / "in"


def test_without_a_table_the_colours_are_told(source):
    (source / "class_dict.csv").unlink()
    with pytest.raises(UserError, match=r"names the masks' colours \(#000000, .*#804080.*name,#rrggbb .*--colours"):
        imported(source)


def test_why_a_table_is_none_is_told(source):
    (source / "class_dict.csv").write_text("name,r,g,b\ncat,1,2,3\ndog,1,2,3\n")
    with pytest.raises(UserError, match=r"names the masks' colours .*class_dict.csv.*'cat' and 'dog' have one colour"):
        imported(source)


def test_smoothed_edges_are_refused_with_their_number(source):
    file = source / "train_labels" / "image0_L.png"
    smooth = Image.open(file).resize((224, 192)).filter(ImageFilter.GaussianBlur(1)).resize(SIZE)
    smooth.save(file)
    with pytest.raises(UserError, match=r"image0_L.png: \d+ pixels in 1 mask have \d+ colours .* smoothed edges"):
        imported(source)


def test_masks_as_jpeg_are_refused(source):
    for file in list(source.glob("*_labels/*.png")):
        Image.open(file).save(file.with_suffix(".jpg"))
        file.unlink()
    with pytest.raises(UserError, match=r"4 masks have .*: JPEG changes colours, save masks as PNG"):
        imported(source)


def test_two_tables_are_a_question(source):
    (source / "other.json").write_text('{"cat": "#804080", "rest": [0, 0, 0]}')
    with pytest.raises(UserError, match=r"class_dict.csv and .*other.json both .*--colours"):
        imported(source)
    imported(source, colours=source / "class_dict.csv")
    assert set(masks(source)) == {f"image{i}" for i in range(4)}


def test_transparent_background_and_void(source, tmp_path):
    """RGBA whose background is transparent black, and a class that CamVid calls Void."""
    for file in source.glob("*_labels/*.png"):
        colour = np.asarray(Image.open(file))
        alpha = np.where(colour.any(axis=-1, keepdims=True), 255, 0).astype(np.uint8)
        Image.fromarray(np.concatenate([colour, alpha], axis=-1)).save(file)
    table = (source / "class_dict.csv").read_text().replace("hot dog", "Void")
    (source / "class_dict.csv").write_text(table)
    report = imported(source)
    assert [each.name for each in report.classes] == ["cat", "dog"]
    assert report.ignored > 0
    assert {value for mask in masks(source).values() for value in np.unique(mask).tolist()} == {0, 1, 2, 255}


def test_classes_that_are_kept(source):
    report = imported(source, classes=("dog", "cat"), rest="ignore")
    assert [each.name for each in report.classes] == ["dog", "cat"]
    assert report.ignored == sum(int((ids_of(s) == 3).sum()) for s in entries())
