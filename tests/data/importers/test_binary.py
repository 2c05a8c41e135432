"""Masks of one class each, hostile and strange ones."""

from __future__ import annotations

import numpy as np
import pytest
from mask_writers import NAMES, entries, ids_of, imported, in_colour, masks, reasons, save, with_palette
from PIL import Image

from barm.errors import UserError


@pytest.fixture
def write(tmp_path):
    """Write masks at ``place(image's name, class)``, and images at ``photo(image's name)``."""

    def call(place, photo="images/{}.jpg", classes=NAMES, high=255):
        for sample in entries():
            save(sample.image, tmp_path / "in" / photo.format(sample.name))
            for name in classes:
                alone = ids_of(sample) == NAMES.index(name) + 1
                mask = alone.astype(np.uint8) * high
                save(mask, tmp_path / "in" / place.format(sample.name, name))
        return tmp_path / "in"

    return call


@pytest.mark.parametrize(
    ("place", "photo"),
    [
        ("masks/{1}/{0}.png", "images/{}.jpg"),
        ("masks/{1}/{0}_mask.png", "images/{}.jpg"),
        ("{1}/{0}.png", "images/{}.jpg"),
        ("{1}/{0}.png", "{}.jpg"),
        ("masks/{0}_{1}.png", "images/{}.png"),
        ("masks/{0}_{1}_mask.png", "images/{}_img.png"),
        ("masks/{0}.{1}.png", "images/{}.jpg"),
        ("{0}_{1}.png", "{}.jpg"),
        ("masks/{0}/{1}.png", "images/{}.png"),
        ("{0}/{1}.png", "{}.jpg"),
    ],
)
def test_every_place_of_the_class_name(place, photo, write):
    source = write(place, photo)
    report = imported(source)
    assert (report.format, report.left_out) == ("binary", {})
    names = [each.name for each in report.classes]
    assert sorted(names) == sorted(NAMES)
    found = {name.removesuffix("_img"): mask for name, mask in masks(source).items()}
    for sample in entries():
        assert np.array_equal(found[sample.name], ids_of(sample, names))


@pytest.mark.parametrize("place", ["masks/{0}.png", "{0}_mask.png", "masks/{0}_0.png"])
@pytest.mark.parametrize("high", [1, 255])
def test_one_class_needs_a_name(place, high, write):
    source = write(place, "{}.jpg", classes=("dog",), high=high)
    with pytest.raises(UserError, match="say with --classes NAME which class they show"):
        imported(source)
    report = imported(source, classes=("dog",))
    assert [each.name for each in report.classes] == ["dog"]
    assert np.array_equal(masks(source)["image0"], ids_of(entries()[0]) == 2)


def test_overlaps_follow_the_order_of_the_classes(write):
    source = write("masks/{1}/{0}.png")
    whole = np.full((96, 112), 255, np.uint8)
    save(whole, source / "masks" / "cat" / "image0.png")
    report = imported(source)
    assert report.contested[0] == 1
    assert any("in the order cat, dog and hot dog" in note for note in report.notes)
    assert set(np.unique(masks(source)["image0"])) == {1, 2, 3}


def test_the_given_order_comes_first(write):
    source = write("masks/{1}/{0}.png")
    save(np.full((96, 112), 255, np.uint8), source / "masks" / "cat" / "image0.png")
    imported(source, classes=("dog", "hot dog", "cat"))
    assert set(np.unique(masks(source)["image0"])) == {3}


@pytest.mark.parametrize(("value", "options"), [(128, {}), (7, {"format": "binary"})])
def test_a_third_value_is_refused(value, options, write, tmp_path):
    source = write("masks/{1}/{0}.png")
    mask = np.full((96, 112), 255, np.uint8)
    mask[0, :3] = value
    save(mask, source / "masks" / "dog" / "image2.png")
    with pytest.raises(UserError, match=rf"image2.png: 3 pixels hold {value} \(1 mask such\): a mask of one class"):
        imported(source, format="binary")
    assert not (tmp_path / "out").exists()


def test_masks_of_different_sizes_and_damaged_ones_are_left_out(write):
    source = write("masks/{1}/{0}.png")
    save(np.zeros((20, 20), np.uint8), source / "masks" / "cat" / "image0.png")
    (source / "masks" / "cat" / "image1.png").write_bytes(b"\x89PNG")
    report = imported(source)
    assert reasons(report) == {
        "masks that cannot be read": 1,
        "images of which a mask cannot be read": 1,
        "images without a mask that fits": 1,
    }


def test_black_and_white_in_three_channels_and_a_class_without_some_images(write):
    source = write("masks/{1}/{0}.png")
    for file in (source / "masks").rglob("*.png"):
        grey = np.asarray(Image.open(file))
        save(np.stack([grey] * 3, axis=-1), file)
    (source / "masks" / "cat" / "image0.png").unlink()
    report = imported(source)
    assert report.format == "binary"
    assert report.classes[0].images == 3
    assert set(np.unique(masks(source)["image0"])) == {0, 2, 3}


def test_words_in_folders_and_a_mask_of_the_background(write, tmp_path):
    source = write("mask_{1}/{0}.png")
    save(np.full((96, 112), 255, np.uint8), source / "mask_background" / "image0.png")
    report = imported(source)
    assert [each.name for each in report.classes] == ["cat", "dog", "hot dog"]
    assert np.array_equal(masks(source)["image0"], ids_of(entries()[0]))


def test_a_palette_that_makes_zero_white(write):
    source = write("masks/{1}/{0}.png", high=1)
    for file in (source / "masks").rglob("*.png"):
        save(with_palette(np.asarray(Image.open(file)), [(255, 255, 255), (0, 0, 0)]), file)
    with pytest.raises(
        UserError, match=r"0 is #ffffff in its palette, so that it may not be background \(12 masks such"
    ):
        imported(source, format="binary")


def test_blue_is_no_white(write):
    source = write("masks/{1}/{0}.png")
    for file in (source / "masks").rglob("*.png"):
        save(in_colour(np.asarray(Image.open(file)) // 255, [(0, 0, 0), (0, 0, 255)]), file)
    with pytest.raises(UserError, match=r"pixels hold #0000ff"):
        imported(source, format="binary")
