"""`classes.toml`: values or colours of masks become ids, everywhere a data set is opened, and ids become them again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import barm
from barm.data.class_values import find_class_values, parse_colour, read_class_values, write_class_values
from barm.data.importers.annotations import Classes
from barm.data.index import checked
from barm.data.masks import read_mask
from barm.data.sources import open_source
from barm.errors import UserError
from barm.reading import Unfit

STREET = '[values]\n0 = "background"\n7 = "road"\n8 = "pavement"\n26 = "road"\n255 = "ignore"\n'
PAINT = '[colours]\n"#000000" = "background"\n"#804080" = "road"\n"250, 170, 30" = "light"\n'


def parsed(text: str, tmp_path: Path):
    path = tmp_path / "classes.toml"
    path.write_text(text, "utf-8")
    return read_class_values(path)


def test_values_become_ids_in_the_order_of_their_lines(tmp_path):
    values = parsed(STREET, tmp_path)
    assert values.names == ("road", "pavement")
    ids = values.to_ids(np.array([[0, 7, 8], [26, 255, 7]], np.uint8), tmp_path)
    assert ids.dtype == np.uint8
    np.testing.assert_array_equal(ids, [[0, 1, 2], [1, 255, 1]])


def test_colours_become_ids(tmp_path):
    values = parsed(PAINT, tmp_path)
    mask = np.array([[[0, 0, 0], [128, 64, 128]], [[250, 170, 30], [0, 0, 0]]], np.uint8)
    np.testing.assert_array_equal(values.to_ids(mask, tmp_path), [[0, 1], [2, 0]])


@pytest.mark.parametrize(("other", "expected"), [("background", 0), ("ignore", 255)])
def test_other_values_are_what_the_file_says(tmp_path, other, expected):
    values = parsed(f'other = "{other}"\n{STREET}', tmp_path)
    assert values.to_ids(np.array([[9]]), tmp_path) == expected


def test_a_value_that_is_not_listed_is_refused(tmp_path):
    with pytest.raises(Unfit, match=r"holds the value 9 and 11, which classes\.toml does not list; list it in"):
        parsed(STREET, tmp_path).to_ids(np.array([[9, 7, 11]]), tmp_path)
    with pytest.raises(Unfit, match="holds the colour #010203"):
        parsed(PAINT, tmp_path).to_ids(np.array([[[1, 2, 3]]], np.uint8), tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected one table"),
        ('[values]\n1 = "a"\n[colours]\n"#000000" = "b"', "expected one table"),
        ('[values]\n1 = "a"\n[more]\n', "expected one table"),
        ('[values]\n"-1" = "a"', "expected a mask value of 0 to 65535"),
        ('[values]\n70000 = "a"', "expected a mask value of 0 to 65535"),
        ('[colours]\n"#12345" = "a"', "expected a colour such as"),
        ('[colours]\n"#000001" = "a"\n"0,0,1" = "b"', "for the same value"),
        ('[values]\n1 = ""', "expected a class name"),
        ("[values]\n1 = 2", "expected a class name"),
        ('[values]\n0 = "background"', "expected 1 to 254 different class names, found 0"),
        ('other = "void"\n[values]\n1 = "a"', "expected other ="),
        ("[values\n", "is not valid TOML"),
    ],
)
def test_what_is_wrong_in_the_file_is_told(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        parsed(text, tmp_path)


@pytest.mark.parametrize("name", ["unlabeled", "_unlabeled_", "__Background__", "void", "_ignore_", "bg", "cat"])
def test_names_of_the_background_are_the_same_in_a_table_and_in_an_import(name, tmp_path):
    classes = Classes([name])
    (_, class_id), _ = parsed(f'[values]\n1 = "{name}"\n2 = "other"\n', tmp_path).ids
    assert classes.add(name) == class_id


def test_what_was_written_is_read_again(tmp_path):
    names = {"#000000": "background", "#0a0b0c": 'a "quoted" \\ name', "#ffffff": "größe, 2"}
    write_class_values(tmp_path / "classes.toml", names, other="ignore")
    values = find_class_values(tmp_path)
    assert values.names == ('a "quoted" \\ name', "größe, 2")
    assert values.other == 255
    assert {values.written(v) for v, _ in values.ids} == set(names)


def test_the_source_of_an_import_comes_first(tmp_path):
    write_class_values(tmp_path / "classes.toml", {"1": "a"})
    write_class_values(tmp_path / "source_classes.toml", {"40": "a"})
    assert find_class_values(tmp_path).ids == ((40, 1),)
    with pytest.raises(UserError, match=r"has neither source_classes\.toml nor classes\.toml"):
        find_class_values(tmp_path.parent)


def test_colours_are_read_as_people_write_them():
    assert [parse_colour(t) for t in ("#0A0b0c", "0a0b0c", "10, 11,12", "10 11 12")] == [0x0A0B0C] * 4
    assert [parse_colour(t) for t in ("#0a0b0", "256,0,0", "red", "")] == [None] * 4


@pytest.mark.parametrize("deep", [False, True])
def test_masks_come_back_in_their_values(tmp_path, deep):
    values = parsed(STREET.replace("8 =", "800 =") if deep else STREET, tmp_path)
    ids = np.array([[0, 1], [2, 1]], np.uint8)
    mask = values.from_ids(ids, ("background", "road", "pavement"))
    np.testing.assert_array_equal(np.asarray(mask), [[0, 7], [800 if deep else 8, 7]])
    mask.save(tmp_path / "m.png")
    np.testing.assert_array_equal(np.asarray(read_mask(tmp_path / "m.png", values)), ids)


def test_masks_come_back_in_their_colours(tmp_path):
    values = parsed(PAINT, tmp_path)
    mask = values.from_ids(np.array([[2, 0]], np.uint8), ("background", "road", "light"))
    assert (mask.mode, mask.getpixel((0, 0)), mask.getpixel((1, 0))) == ("RGB", (250, 170, 30), (0, 0, 0))


@pytest.fixture
def painted(tmp_path) -> Path:
    """A folder whose masks are in colour: crops of noise with two classes."""
    rng = np.random.default_rng(0)
    colours = np.array([[0, 0, 0], [128, 64, 128], [250, 170, 30]], np.uint8)
    for i in range(6):
        split, ids = ("train", "val")[i % 2], rng.integers(0, 3, (4, 5)).repeat(8, 0).repeat(8, 1)
        for kind, pixels in (("images", rng.integers(0, 255, (32, 40, 3), np.uint8)), ("masks", colours[ids])):
            path = tmp_path / "own" / kind / split / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    (tmp_path / "own/classes.toml").write_text(PAINT, "utf-8")
    return tmp_path / "own"


def test_a_folder_of_colours_is_opened(painted):
    source = checked(open_source("auto", painted, "train"))
    assert source.class_names == ("background", "road", "light")
    assert source.classes_in(0) == {1, 2}
    assert set(np.unique(np.asarray(source[0].mask))) == {0, 1, 2}


def test_another_meaning_of_the_same_masks_is_seen(painted):
    before = checked(open_source("folder", painted, "train"))
    (painted / "classes.toml").write_text(PAINT.replace('"road"', '"ignore"'), "utf-8")
    after = checked(open_source("folder", painted, "train"))
    assert after.class_names == ("background", "light")
    assert before.contents != after.contents
    assert after.classes_in(0) == {1}


def test_two_lists_of_classes_are_refused(painted):
    (painted / "classes.txt").write_text("road\n", "utf-8")
    with pytest.raises(UserError, match="keep the one that says what the masks hold"):
        open_source("folder", painted, "train")


def test_the_check_names_an_unlisted_colour(painted, cli):
    Image.new("RGB", (40, 32), "red").save(painted / "masks/train/0.png")
    status, out, err = cli("data", "check", painted)
    assert status == 2
    assert "give each its id" not in out + err
    assert "holds the colour #ff0000, which classes.toml does not list; list it in classes.toml" in out


@pytest.mark.slow
def test_a_network_is_trained_extended_and_asked_in_colours(painted, tmp_path, cli):
    """Train on one class, extend by the other, and get masks in the colours that the user came with."""
    sets = ["--set", "base.epochs=1", "--set", "increment.epochs=1", "--set", "base.batch_size=2", "--set"]
    train = ["train", "--recipe", "shapes/barm", "--data", painted, "--out", "run", *sets, "increment.batch_size=2"]
    assert cli(*train, "--group", "road")[0] == 0
    status, _, err = cli(
        "extend", "run", "--data", painted, "--classes", "light", "--out", "more", "--set", "increment.epochs=1"
    )
    assert status == 0, err
    image = painted / "images/val/1.png"
    status, _, err = cli("predict", "more", image, "--out", "seen", "--save-as", painted, "--write", "mask")
    assert status == 0, err
    mask, label = np.asarray(Image.open("seen/1_mask.png")), barm.load("more").predict(barm.read_image(image))
    colours = {"background": (0, 0, 0), "road": (128, 64, 128), "light": (250, 170, 30)}
    np.testing.assert_array_equal(mask, np.array([colours[n] for n in barm.load("more").class_names])[label])
    rows = json.loads(Path("seen/classes.json").read_text())
    assert [(row["name"], row["value"]) for row in rows][1:] == [("road", "#804080"), ("light", "#faaa1e")]


def test_a_class_without_a_value_is_refused_before_anything_is_written(tiny_run, tmp_path, cli):
    write_class_values(tmp_path / "classes.toml", {"0": "background", "9": "nothing that the network knows"})
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    status, _, err = cli("predict", tiny_run, "a.png", "--out", "seen", "--save-as", "classes.toml")
    assert status == 2
    assert "which the network knows: add a line for it" in err
    assert not (tmp_path / "seen").exists()
    status, _, err = cli("predict", tiny_run, "a.png", "--out", "seen", "--save-as", "classes.toml", "--ids")
    assert (status, "give --ids or --save-as" in err) == (2, True)
