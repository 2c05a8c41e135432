"""What an import warns about."""

from __future__ import annotations

import pytest
from PIL import Image

from barm.data.importers.annotations import Annotations, ImportOptions, Item, Region
from barm.data.importers.regions import painter, rectangle
from barm.data.importers.report import ClassCount, empty, hidden
from barm.data.importers.write import Origin, Split, write_folder


def test_a_class_that_other_objects_cover_is_warned_about(tmp_path):
    cat, dog = Region(1, rectangle(0, 0, 10, 10)), Region(2, rectangle(0, 0, 20, 20))
    items = []
    for k in range(2):
        Image.new("RGB", (40, 30)).save(tmp_path / f"i{k}.png")
        items.append(Item(f"i{k}", tmp_path / f"i{k}.png", painter([cat, dog], "later")))
    found = Annotations(("cat", "dog"), tuple(items))
    made = write_folder(found, tmp_path / "own", ImportOptions(), Split(0.5), Origin("", "", {}), link=False)
    (line,) = made.warnings
    assert line.startswith("no pixel shows 'cat' (2 objects): other objects cover them (--overlap)")


@pytest.mark.parametrize(("objects", "pixels"), [(0, 0), (None, 0), (1, 1)])
def test_other_classes_are_not(objects, pixels):
    assert hidden([ClassCount("cat", objects, 0, pixels)]) == []


def test_splits_without_images_are_warned_about():
    assert empty({"train": 1, "val": 1}) == []
    assert [line.split()[1] for line in empty({"test": 3})] == ["train", "val"]
