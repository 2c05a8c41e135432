"""The numbers or colours of a source are kept where they name one class each, and masks can hold them."""

from __future__ import annotations

import json
import re

import pytest
from PIL import Image

from barm.data.class_values import read_class_values, write_class_values
from barm.data.importers import import_data
from barm.data.importers.source_classes import source_classes

NAMES = ("cat", "dog")


@pytest.mark.parametrize(
    ("values", "expected", "told"),
    [
        ({"background": "0", "cat": "7", "dog": "9"}, {"0": "background", "7": "cat", "9": "dog"}, ()),
        ({"cat": "1", "dog": "2"}, {"0": "background", "1": "cat", "2": "dog"}, ("background: in .* it is 0",)),
        ({"cat": "0", "dog": "1"}, {"255": "background", "0": "cat", "1": "dog"}, ("background: in .* it is 255",)),
        (
            {"cat": "0", "dog": "1", "ignore": "255"},
            {"2": "background", "255": "ignore", "0": "cat", "1": "dog"},
            ("background: in .* it is 2$",),
        ),
        (
            {"cat": "#000000", "dog": "#FF0000"},
            {"#ffffff": "background", "#000000": "cat", "#ff0000": "dog"},
            ("background: in .* it is #ffffff",),
        ),
        ({"background": "0", "cat": "-4", "dog": "9"}, {"0": "background", "9": "dog"}, ("lacks 'cat': -4 is no",)),
        ({"background": "0", "cat": "100000", "dog": "9"}, {"0": "background", "9": "dog"}, ("lacks 'cat': 100000",)),
        ({"background": "0", "dog": "9"}, {"0": "background", "9": "dog"}, ("lacks 'cat': the source has no value",)),
        ({"cat": "3", "dog": "3"}, {}, ("lacks the classes 'cat' and 'dog': 3 stands for 'cat' and 'dog'",)),
        (
            {"background": "3", "cat": "3", "dog": "4"},
            {"0": "background", "4": "dog"},
            ("lacks the class 'cat': 3 stands for 'background' and 'cat'", "background: in .* it is 0"),
        ),
    ],
)
def test_values_of_one_class_each_are_kept(values, expected, told, tmp_path):
    made, notes = source_classes(NAMES, values)
    assert made == expected
    assert len(notes) == len(told)
    for note, pattern in zip(notes, told, strict=True):
        assert re.search(pattern, note)
    if made:
        write_class_values(tmp_path / "classes.toml", made)
        kept = read_class_values(tmp_path / "classes.toml")
        assert kept.missing(("background", *kept.names)) == []


def test_values_of_other_classes_are_left_out():
    assert source_classes(("dog",), {"cat": "1", "dog": "2", "background": "0"})[0] == {"0": "background", "2": "dog"}


def test_two_files_that_number_their_categories_alike(tmp_path):
    for name in NAMES:
        (tmp_path / "export" / name).mkdir(parents=True)
        Image.new("RGB", (40, 30)).save(tmp_path / f"export/{name}/{name}.png")
        ring = [4, 4, 24, 4, 24, 24, 4, 24]
        content = {
            "images": [{"id": 1, "file_name": f"{name}.png", "width": 40, "height": 30}],
            "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "segmentation": [ring]}],
            "categories": [{"id": 1, "name": name}],
        }
        (tmp_path / f"export/{name}/result.json").write_text(json.dumps(content))
    report = import_data(tmp_path / "export", tmp_path / "own")
    assert [one.name for one in report.classes] == ["cat", "dog"]
    assert not (tmp_path / "own/source_classes.toml").exists()
    assert any("lacks the classes 'cat' and 'dog'" in note for note in report.notes)
