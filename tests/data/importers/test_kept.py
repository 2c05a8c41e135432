"""Classes that are not kept hide none of those that are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from barm.data.importers import import_data
from barm.data.importers.annotations import ImportOptions, Item, Painted, Region
from barm.data.importers.kept import keeping
from barm.data.importers.mask_scan import blank
from barm.data.importers.regions import painter, rectangle
from barm.labels import IGNORE

SIZE = (40, 20)
WHEEL, CAR, TREE = 1, 2, 3


def span(class_id: int, left: int, right: int) -> Region:
    return Region(class_id, rectangle(left, 0, right, 20))


def painted(regions: list[Region], kept: set[int], overlap: str = "later", rest: str = "ignore") -> Painted:
    item = Item("a", Path("a.jpg"), painter(regions, overlap))
    return keeping(item, kept, ImportOptions(background="cut", rest=rest)).paint(SIZE)


def row(made: Painted) -> str:
    """The first row in steps of ten pixels."""
    return "".join({0: "0", IGNORE: "i"}.get(int(i), str(i)) for i in made.ids[0, ::10])


@pytest.mark.parametrize("overlap", ["later", "earlier", "smaller", "ignore"])
def test_a_class_that_is_not_kept_hides_nothing(overlap):
    """A wheel, a car over it, and a small tree over both."""
    regions = [span(WHEEL, 10, 40), span(CAR, 0, 30), span(TREE, 10, 20)]
    made = painted(regions, {WHEEL}, overlap)
    assert row(made) == "2111"
    assert made.contested == 0
    assert made.objects[WHEEL] == 1
    assert row(painted(regions, {WHEEL}, overlap, "background")) == "0111"


def test_what_several_others_cover_is_one_of_them_and_not_ignored():
    assert row(painted([span(CAR, 0, 30), span(TREE, 0, 20), span(WHEEL, 20, 40)], {WHEEL}, "ignore")) == "2211"


def test_ignored_pixels_and_parts_that_are_taken_out_keep_their_place():
    regions = [span(WHEEL, 0, 40), span(IGNORE, 30, 40), span(0, 0, 20), span(CAR, 10, 20)]
    assert row(painted(regions, {WHEEL})) == "021i"


def test_nothing_changes_where_nothing_could_be_hidden():
    for paint in (blank, painter([], "later"), painter([span(CAR, 0, 9)], "later")):
        item = Item("a", Path("a.jpg"), paint)
        assert keeping(item, {WHEEL}, ImportOptions()) is item
    both = Item("a", Path("a.jpg"), painter([span(WHEEL, 0, 9), span(CAR, 0, 9)], "later"))
    assert keeping(both, {WHEEL, CAR}, ImportOptions()) is both


@pytest.mark.parametrize(("rest", "beside"), [("background", 0), ("ignore", IGNORE)])
def test_masks_of_one_class_each(tmp_path, rest, beside):
    """The car's mask covers the wheel's."""
    for name, columns in {"wheel": slice(10, 20), "car": slice(0, 30)}.items():
        for number in range(2):
            mask = np.zeros((20, 40), np.uint8)
            mask[:, columns] = 255
            path = tmp_path / f"export/masks/{name}/i{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask).save(path)
            (tmp_path / "export/images").mkdir(exist_ok=True)
            Image.new("RGB", SIZE, "teal").save(tmp_path / f"export/images/i{number}.png")
    report = import_data(tmp_path / "export", tmp_path / "own", ImportOptions(classes=("wheel",), rest=rest))
    assert report.classes[0].pixels == 2 * 10 * 20
    assert np.asarray(Image.open(tmp_path / "own/masks/i0.png"))[0, ::10].tolist() == [beside, 1, beside, 0]
