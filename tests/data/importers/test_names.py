"""Names of imported images stay within the new folder, whatever a source calls them."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from barm.data.importers.annotations import Annotations, ImportOptions, Item, Painted
from barm.data.importers.mask_scan import blank
from barm.data.importers.names import check_names, divided_anew, shortened
from barm.data.importers.write import Origin, Split, write_folder
from barm.errors import UserError

BAD = [
    "../a",
    "x/../../../home/photo",
    "..",
    "/etc/a",
    "C:/a",
    "C:a",
    "x\\..\\a",
    "a\nb",
    "a\u2028b",
    "a\x85b",
    "",
    "x//a",
    "./a",
    ".hidden",
    " a",
    "a ",
]


def item(name: str, split: str | None = None) -> Item:
    return Item(name, Path("photos") / "a.jpg", blank, split)


@pytest.mark.parametrize("name", BAD)
def test_no_name_leads_out_of_the_folder(name):
    for check in (check_names, shortened):
        with pytest.raises(UserError, match="the image name") as error:
            check([item("b"), item(name)])
        assert "\n" not in str(error.value)


def test_nothing_is_written_outside(tmp_path):
    """The photograph of a user lies where the name leads; it is neither replaced nor removed."""
    precious = tmp_path / "home/photo.png"
    precious.parent.mkdir()
    Image.new("RGB", (20, 20), "red").save(precious)
    before = precious.read_bytes()
    Image.new("RGB", (20, 20), "teal").save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    for paint in (blank, lambda _: Painted(None)):
        found = Annotations(("cat",), (Item("x/../../../home/photo", lambda: content, paint),))
        with pytest.raises(UserError, match="leads out of the folder"):
            write_folder(found, tmp_path / "own", ImportOptions(), Split(0.2), Origin("", "", {}), link=False)
    assert precious.read_bytes() == before
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.png", "home", "photo.png"]


@pytest.mark.parametrize("name", ["a", "scene 1/b.c", "K\u00f6ln/\u6771\u4eac", "a..b", "-x"])
def test_other_names_are_kept(name):
    assert [one.name for one in shortened([item(name), item("z")])] == [name, "z"]


def test_folders_that_all_have_in_common_are_left_out():
    items = [item("x/train/a", "train"), item("x/train/s/b", "train"), item("x/val/a", "val")]
    assert [one.name for one in shortened(items)] == ["a", "s/b", "a"]


def test_a_split_alone_leaves_no_folder_of_its_name():
    items, notes = divided_anew([item("test/a", "test"), item("more/test/b", "test")])
    assert [(one.name, one.split) for one in items] == [("a", None), ("more/test/b", None)]
    assert len(notes) == 1
