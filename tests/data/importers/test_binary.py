"""Masks of one class each, hostile and strange ones."""

from __future__ import annotations

import numpy as np
import pytest

from barm.errors import UserError


@pytest.fixture
def write(writers, tmp_path):
    """Write masks at ``place(image's name, class)``, and images at ``photo(image's name)``."""

    def call(place, photo="images/{}.jpg", classes=writers.NAMES, high=255):
        for sample in writers.samples():
            writers.save(sample.image, tmp_path / "in" / photo.format(sample.name))
            for name in classes:
                alone = writers.ids_of(sample) == writers.NAMES.index(name) + 1
                mask = alone.astype(np.uint8) * high
                writers.save(mask, tmp_path / "in" / place.format(sample.name, name))
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
def test_every_place_of_the_class_name(place, photo, write, writers, imported, masks):
    source = write(place, photo)
    report = imported(source)
    assert (report.format, report.left_out) == ("binary", {})
    names = [each.name for each in report.classes]
    assert sorted(names) == sorted(writers.NAMES)
    found = {name.removesuffix("_img"): mask for name, mask in masks().items()}
    for sample in writers.samples():
        assert np.array_equal(found[sample.name], writers.ids_of(sample, names))


@pytest.mark.parametrize("place", ["masks/{0}.png", "{0}_mask.png", "masks/{0}_0.png"])
@pytest.mark.parametrize("high", [1, 255])
def test_one_class_needs_a_name(place, high, write, writers, imported, masks):
    source = write(place, "{}.jpg", classes=("dog",), high=high)
    with pytest.raises(UserError, match="say with --classes NAME which class they show"):
        imported(source)
    report = imported(source, classes=("dog",))
    assert [each.name for each in report.classes] == ["dog"]
    assert np.array_equal(masks()["shot0"], writers.ids_of(writers.samples()[0]) == 2)


def test_overlaps_follow_the_order_of_the_classes(write, writers, imported, masks):
    source = write("masks/{1}/{0}.png")
    whole = np.full((96, 112), 255, np.uint8)
    writers.save(whole, source / "masks" / "cat" / "shot0.png")
    report = imported(source)
    assert report.contested[0] == 1
    assert any("in the order cat, dog and hot dog" in note for note in report.notes)
    assert set(np.unique(masks()["shot0"])) == {1, 2, 3}


def test_the_given_order_comes_first(write, writers, imported, masks):
    source = write("masks/{1}/{0}.png")
    writers.save(np.full((96, 112), 255, np.uint8), source / "masks" / "cat" / "shot0.png")
    imported(source, classes=("dog", "hot dog", "cat"))
    assert set(np.unique(masks()["shot0"])) == {3}


@pytest.mark.parametrize(("value", "options"), [(128, {}), (7, {"format": "binary"})])
def test_a_third_value_is_refused(value, options, write, writers, imported, tmp_path):
    source = write("masks/{1}/{0}.png")
    mask = np.full((96, 112), 255, np.uint8)
    mask[0, :3] = value
    writers.save(mask, source / "masks" / "dog" / "shot2.png")
    with pytest.raises(UserError, match=rf"shot2.png: 3 pixels hold {value} \(1 mask such\): a mask of one class"):
        imported(source, format="binary")
    assert not (tmp_path / "out").exists()


def test_masks_of_different_sizes_and_damaged_ones_are_left_out(write, writers, imported):
    source = write("masks/{1}/{0}.png")
    writers.save(np.zeros((20, 20), np.uint8), source / "masks" / "cat" / "shot0.png")
    (source / "masks" / "cat" / "shot1.png").write_bytes(b"\x89PNG")
    report = imported(source)
    assert report.left_out == {
        "masks that cannot be read": 1,
        "images of which a mask cannot be read": 1,
        "images whose annotation cannot be read": 1,
    }


def test_black_and_white_in_three_channels_and_a_class_without_some_images(write, writers, imported, masks):
    source = write("masks/{1}/{0}.png")
    for file in (source / "masks").rglob("*.png"):
        grey = np.asarray(writers.Image.open(file))
        writers.save(np.stack([grey] * 3, axis=-1), file)
    (source / "masks" / "cat" / "shot0.png").unlink()
    report = imported(source)
    assert report.format == "binary"
    assert report.classes[0].images == 3
    assert set(np.unique(masks()["shot0"])) == {0, 2, 3}
