"""A part that is called background and lies over an object: an option says what it is, or the import asks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from barm.data.importers.annotations import Ambiguous, ImportOptions, Item, Region
from barm.data.importers.preview import draw
from barm.data.importers.regions import painter, rectangle
from barm.data.importers.undecided import answered

REGIONS = [Region(1, rectangle(0, 0, 20, 20)), Region(0, rectangle(0, 0, 10, 20))]
ITEM = Item("a", Path("a.jpg"), painter(REGIONS, "later"))


@pytest.mark.parametrize(("answer", "pixels"), [("cut", 200), ("below", 400)])
def test_the_option_decides(answer, pixels):
    assert answered(ITEM, ImportOptions(background=answer)).paint((40, 20)).ids.sum() == pixels


def test_without_it_both_readings_are_shown(tmp_path):
    Image.new("RGB", (40, 20)).save(tmp_path / "a.png")
    item = Item("a", tmp_path / "a.png", ITEM.paint)
    with pytest.raises(Ambiguous, match=r"a\.png: an object that is called background lies over others") as asked:
        answered(item, ImportOptions()).paint((40, 20))
    assert asked.value.flag == "--background"
    cut, below = (draw(asked.value.readings[one], ImportOptions()) for one in ("cut", "below"))
    assert below.getpixel((5, 5)) == below.getpixel((15, 5)) == cut.getpixel((15, 5))
    assert cut.getpixel((5, 5)) == (0, 0, 0)


@pytest.mark.parametrize("classes", [None, "cat"])
def test_the_command_asks(tmp_path, cli, classes):
    (tmp_path / "export").mkdir()
    for k in range(2):
        Image.new("RGB", (40, 30)).save(tmp_path / f"export/i{k}.png")
    names = ("cat", "dog", "background")
    rings = [(k, i, [0, 0, side, 0, side, side, 0, side]) for k in range(2) for i, side in enumerate((20, 25, 10))]
    content = {
        "images": [{"id": k, "file_name": f"i{k}.png", "width": 40, "height": 30} for k in range(2)],
        "annotations": [
            {"id": n, "image_id": k, "category_id": i, "segmentation": [ring]} for n, (k, i, ring) in enumerate(rings)
        ],
        "categories": [{"id": i, "name": name} for i, name in enumerate(names)],
    }
    (tmp_path / "export/result.json").write_text(json.dumps(content))
    more = ["--classes", classes] if classes else []
    status, _, err = cli("data", "import", tmp_path / "export", "own", *more)
    assert (status, err.count("\n")) == (2, 1)
    assert "give --background cut (own-readings/background-cut.png) or --background below (own-readings/" in err
    for answer, pixels in (("cut", 300), ("below", 400)):
        assert cli("data", "import", tmp_path / "export", answer, "--background", answer, *more)[0] == 0
        if classes:
            counts = json.loads((tmp_path / answer / "import.json").read_text())["classes"]
            assert counts[0]["pixels"] == 2 * pixels
