"""YOLO: places of label files, splits of data.yaml, boxes, and lines that are refused."""

from __future__ import annotations

import numpy as np
import pytest
import samples
import writers
from PIL import Image

from barm.data.importers import yolo
from barm.data.importers.annotations import BOXES, ImportOptions
from barm.data.importers.source_tree import Tree
from barm.errors import UserError

SQUARE = "0 0.25 0.25 0.75 0.25 0.75 0.75 0.25 0.75\n"


def make(root, labels, images=("images/a.png",), names="names: [cat, dog]\n"):
    """A folder of images of 20 x 10 pixels with label files."""
    for image in images:
        (root / image).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 10)).save(root / image)
    for place, text in labels.items():
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        (root / place).write_text(text, "utf-8")
    if names:
        (root / "data.yaml").write_text(names, "utf-8")
    return root


def read(root, **options):
    return yolo.read(Tree(root), ImportOptions(**options))


def mask(annotations, i=0):
    return annotations.items[i].paint((20, 10)).ids


def test_shares_of_the_sides_become_pixels(tmp_path):
    found = read(make(tmp_path, {"labels/a.txt": SQUARE}))
    expected = np.zeros((10, 20), bool)
    expected[2:8, 5:15] = True
    assert (expected != (mask(found) == 1)).sum() <= 10  # the half rows at 2.5 and 7.5
    assert (found.classes, found.values) == (("cat", "dog"), {"cat": "0", "dog": "1"})


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("images/train/a.png", "labels/train/a.txt"),
        ("train/images/a.png", "train/labels/a.txt"),
        ("obj_train_data/a.png", "obj_train_data/a.txt"),
        ("x/images/images/a.png", "x/images/labels/a.txt"),
        ("Images/a.b.png", "labels/a.b.txt"),
    ],
)
def test_label_files_are_found_beside_and_in_the_mirrored_folder(image, label, tmp_path):
    found = read(make(tmp_path, {label: SQUARE}, [image]))
    assert len(found.items) == 1
    assert mask(found).any()


@pytest.mark.parametrize(
    "entries",
    [
        "train: images/train\nval: images/val",
        "path: ../datasets/own\ntrain: [images/train]\nval: images/val\ntest:",
        "train: ../images/train\nval: C:\\data\\own\\images\\val",
        "train: lists/first.txt\nval: images/val",
    ],
)
def test_data_yaml_decides_the_splits(entries, tmp_path):
    labels = {"labels/train/a.txt": SQUARE, "labels/val/b.txt": SQUARE, "lists/first.txt": "./images/train/a.png\n"}
    root = make(tmp_path, labels, ["images/train/a.png", "images/val/b.png"], f"{entries}\nnames: {{0: cat, 1: dog}}\n")
    assert {item.name: item.split for item in read(root).items} == {"images/train/a": "train", "images/val/b": "val"}


def test_entries_of_roboflow_that_are_not_there_are_noted(tmp_path):
    text = "train: ../train/images\nval: ../valid/images\ntest: ../test/images\nnc: 1\nnames: ['cat']\n"
    labels = {"train/labels/a.txt": SQUARE, "valid/labels/b.txt": SQUARE}
    found = read(make(tmp_path, labels, ["train/images/a.png", "valid/images/b.png"], text))
    assert [item.split for item in found.items] == ["train", "val"]
    assert found.notes == ("data.yaml has test: ../test/images, which is not there",)


def test_the_same_images_for_both_splits_are_divided_anew(tmp_path):
    found = read(make(tmp_path, {"labels/a.txt": SQUARE}, names="train: images\nval: images\nnames: [cat]\n"))
    assert found.items[0].split is None
    assert "divided anew" in found.notes[0]


@pytest.mark.parametrize(("one", "other"), [("train", "val"), ("train", "test"), ("val", "test")])
def test_an_image_of_two_splits_is_refused(one, other, tmp_path):
    labels = {"labels/a.txt": SQUARE, "one.txt": "images/a.png\n"}
    root = make(tmp_path, labels, ["images/a.png", "images/b.png"], f"{one}: images\n{other}: one.txt\nnames: [cat]\n")
    with pytest.raises(UserError, match=rf"a\.png is in {one} and in {other}"):
        read(root)


def test_the_same_images_for_validation_and_test_are_told(tmp_path):
    labels = {"labels/train/a.txt": SQUARE, "labels/val/b.txt": SQUARE}
    text = "train: images/train\nval: images/val\ntest: images/val\nnames: [cat]\n"
    found = read(make(tmp_path, labels, ["images/train/a.png", "images/val/b.png"], text))
    assert [item.split for item in found.items] == ["train", "val"]
    assert found.notes == ("val and test are the same images in data.yaml: they are taken for val",)


def test_an_empty_label_file_is_background_and_a_missing_one_is_not(tmp_path):
    labels = {"labels/a.txt": SQUARE, "labels/b.txt": "\n"}
    root = make(tmp_path, labels, ["images/a.png", "images/b.png", "images/c.png"])
    found = read(root)
    assert [item.name for item in found.items] == ["images/a", "images/b"]
    assert not mask(found, 1).any()
    assert sum(found.left_out.values()) == 1
    assert len(read(root, empty="background").items) == 3


def test_boxes_are_left_out_or_filled(tmp_path):
    root = make(tmp_path, {"labels/a.txt": f"1 0.5 0.5 0.5 1\n{SQUARE}"})
    assert read(root).left_out == {f"{BOXES}, such as labels/a.txt:1": 1}
    assert {value: int((mask(read(root)) == value).sum()) for value in (1, 2, 255)} == {1: 50, 2: 0, 255: 50}
    assert (mask(read(root, boxes="fill", overlap="earlier")) == 2).sum() == 100


def test_names_may_stand_in_classes_txt(tmp_path):
    root = make(tmp_path, {"labels/a.txt": SQUARE, "classes.txt": "hot dog, big\nkatze-ä\n"}, names="")
    assert read(root).classes == ("hot dog, big", "katze-ä")
    assert yolo.lacks(Tree(root)) is None


def test_a_background_name_gets_the_id_0(tmp_path):
    line = SQUARE.replace("0 ", "1 ", 1)
    found = read(make(tmp_path, {"labels/a.txt": line}, names="names: [background, cat]\n"))
    assert found.classes == ("cat",)
    assert found.values == {"background": "0", "cat": "1"}
    assert mask(found).max() == 1


def test_coordinates_a_hair_outside_are_cut_off(tmp_path):
    found = read(make(tmp_path, {"labels/a.txt": "0 -0.0004 0 1.0004 0 1.0004 1 -0.0004 1\r\n"}))
    assert (mask(found) == 1).all()


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("0 12 10 60 10 60 40", "the coordinate 12 is not between 0 and 1"),
        ("0 0.1 0.1 0.5 0.1 0.5 nan", "expected numbers, found 'nan'"),
        ("0 0.1 0.1 0.5 0.1 0.5", "of 6"),
        ("cat 0.1 0.1 0.5 0.1 0.5 0.5", "expected a class's number"),
        ("-1 0.1 0.1 0.5 0.1 0.5 0.5", "expected a class's number"),
        ("0.5 0.1 0.1 0.5 0.1 0.5 0.5", "expected a class's number"),
        ("7 0.1 0.1 0.5 0.1 0.5 0.5", "no name for class 7"),
        ("0", "of 1"),
    ],
)
def test_a_line_that_is_not_as_specified_is_refused(line, told, tmp_path):
    root = make(tmp_path, {"labels/a.txt": f"{SQUARE}\n{line}\n"})
    with pytest.raises(UserError, match=r"a\.txt:3: ") as error:
        read(root)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("names: [yes, no]\n", "class 0 is read as True: write it in quotes"),
        ("names: {0: cat, 0: dog}\n", "the key '0' is there twice"),
        ("names: [dog, cat, ' cat']\n", "the classes 1 and 2 are both called ' cat'"),
        ("nc: 3\nnames: [cat, dog]\n", "nc is 3, but names has 2"),
        ("names: &n [cat]\ntrain: *n\n", "an alias"),
        ("names: [cat\n", "not valid YAML"),
        ("names: cat\n", "expected names"),
        ("names: {-1: cat}\n", "number from 0"),
        ("names: [cat]\nkpt_shape: [17, 3]\n", "key points"),
        ("names: [cat]\ntrain: {a: b}\n", "in train"),
        ("names: [cat]\nx: " + "[" * 2000, "nested too deeply"),
        ("names: [cat]\nx: !!python/object/apply:os.getcwd []\n", "YAML"),
        ("names: [cat]\n" + "# " + "x" * 2**18, "expected at most"),
    ],
)
def test_a_data_yaml_that_is_wrong_is_refused(text, told, tmp_path):
    root = make(tmp_path, {"labels/a.txt": SQUARE}, names=text)
    with pytest.raises(UserError) as error:
        read(root)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_two_files_that_name_other_classes_are_refused(tmp_path):
    root = make(tmp_path, {"labels/a.txt": SQUARE, "old/data.yaml": "names: [dog, cat]\n"})
    with pytest.raises(UserError, match="keep one of them"):
        read(root)


def test_images_may_lie_elsewhere(tmp_path):
    writers.write_yolo(tmp_path / "source", samples.samples())
    (tmp_path / "source/images").rename(tmp_path / "elsewhere")
    found = yolo.read(Tree(tmp_path / "source", tmp_path / "elsewhere"), ImportOptions())
    assert [item.split for item in found.items] == ["train", "val"]


def test_what_does_not_belong_together_is_counted(tmp_path):
    labels = {"labels/train/a.txt": SQUARE, "labels/train/lost.txt": SQUARE}
    images = ["images/train/a.png", "images/other/b.png"]
    found = read(make(tmp_path, labels, images, "train: images/train\nnames: [cat]\n"))
    assert found.left_out == {
        "images that data.yaml does not list": 1,
        "label files without an image, such as labels/train/lost.txt": 1,
    }
