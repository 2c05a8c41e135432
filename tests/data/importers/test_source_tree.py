"""Which image a path in an annotation means, on this machine or from another one."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest

from barm.data.importers.source_tree import Claims, Tree
from barm.errors import UserError


def find(root, text, *files, near=None, images=None):
    """The image that a text means in a folder of these files."""
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()
    return Tree(root, images).find_image(text, PurePosixPath(near) if near else None)


@pytest.mark.parametrize(
    ("text", "files", "near"),
    [
        ("scene1/0001.jpg", ["scene2/0001.jpg"], "all.json"),
        ("scene1/0001.jpg", ["scene2/0001.jpg", "scene1/0002.jpg"], "all.json"),
        ("scene1/0001.jpg", ["0001.jpg", "scene1/0002.jpg"], "all.json"),
        ("/home/me/scene1/0001.jpg", ["scene2/0001.jpg", "scene1/0002.jpg"], "all.json"),
        ("0001.jpg", ["scene2/0001.jpg", "scene1/0002.jpg"], "scene1/0001.json"),
        ("0001.jpg", ["scene2/0001.jpg", "scene2/0001.json"], "scene1/0001.json"),
        ("images/0001.jpg", ["two/images/0001.jpg", "two/coco.json"], "one/coco.json"),
        ("images/0001.jpg", ["old/images/0001.jpg", "images/0002.jpg"], "all.json"),
        ("images/0001.jpg", ["old/images/0001.jpg", "images/0002.jpg"], "annotations/all.json"),
        ("../gone/0001.jpg", ["scene/0001.jpg"], "json/0001.json"),
    ],
)
def test_an_image_of_another_folder_does_not_stand_in(text, files, near, tmp_path):
    assert find(tmp_path, text, *files, near=near) is None


@pytest.mark.parametrize(
    ("text", "files", "near"),
    [
        ("a.jpg", ["valid/a.jpg"], "train/_annotations.coco.json"),
        ("/home/me/a.jpg", ["valid/a.jpg"], "train/_annotations.coco.json"),
        ("a.jpg", ["images/val/a.jpg", "images/train/b.jpg"], "annotations/train/all.json"),
        ("a.jpg", ["val/a.jpg", "train/b.jpg"], "annotations/instances_train.json"),
    ],
)
def test_an_image_of_another_split_does_not_stand_in(text, files, near, tmp_path):
    assert find(tmp_path, text, *files, near=near) is None


@pytest.mark.parametrize(
    ("text", "image", "near"),
    [
        ("/home/me/data/a.jpg", "images/a.jpg", "all.json"),
        ("C:\\x\\a.jpg", "images/a.jpg", "json/all.json"),
        ("file:///home/me/own/images/a.jpg", "images/a.jpg", "all.json"),
        ("https://host.example/x/a.jpg?sign=1", "images/a.jpg", "all.json"),
        ("datasets/own/images/a.jpg", "images/a.jpg", "all.json"),
        ("images/a.jpg", "own/images/a.jpg", "own/annotations/all.json"),
        ("..\\images\\A.JPG", "images/a.jpg", "json/a.json"),
        ("a.jpg", "images/default/a.jpg", "annotations/all.json"),
        ("a.jpg", "train/a.jpg", "val.json"),
        ("train/a.jpg", "train/a.jpg", "annotations/val.json"),
        ("a.jpg", "training/images/validation/a.jpg", "training/annotations/all.json"),
        ("http://[x/a.jpg", "a.jpg", "all.json"),
    ],
)
def test_an_image_that_nothing_contradicts_is_meant(text, image, near, tmp_path):
    assert find(tmp_path, text, image, "other/b.png", near=near) == image


def test_of_several_images_the_path_or_the_split_chooses(tmp_path):
    files = ["train/a.jpg", "val/a.jpg"]
    assert find(tmp_path, "/home/me/val/a.jpg", *files, near="x.json") == "val/a.jpg"
    assert find(tmp_path, "a.jpg", near="annotations/instances_val.json") == "val/a.jpg"
    for text in ("a.jpg", "/home/me/a.jpg"):
        with pytest.raises(UserError, match=r"may be train/a\.jpg or val/a\.jpg"):
            find(tmp_path, text, near="annotations/all.json")


def test_a_given_folder_of_images_lets_the_names_decide(tmp_path):
    (tmp_path / "source").mkdir()
    (tmp_path / "photos/deep").mkdir(parents=True)
    (tmp_path / "photos/deep/a.jpg").touch()
    assert find(tmp_path / "source", "images/a.jpg", near="json/a.json", images=tmp_path / "photos") == "deep/a.jpg"


def test_an_image_has_one_annotation(tmp_path):
    claims = Claims()
    claims.add("a.jpg", "x.json: image 1")
    with pytest.raises(UserError, match=r"x\.json: image 1 and x\.json: image 2 are both of the image a\.jpg"):
        claims.add("a.jpg", "x.json: image 2")
