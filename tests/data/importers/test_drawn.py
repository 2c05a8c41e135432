"""EXIF data turn photographs; whether their masks are turned, too, is decided by sizes, or asked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import ExifTags, Image

from barm.data.images import Probe
from barm.data.importers.annotations import Ambiguous, ImportOptions, Item, Painted, Region, Size
from barm.data.importers.drawn import upright_mask
from barm.data.importers.mask_scan import blank
from barm.data.importers.regions import painter, run_lengths
from barm.errors import UserError

SIZE, SQUARE = (40, 30), (40, 40)


def quarter(size: Size) -> Painted:
    """The upper left quarter of an image of any size, as formats without sizes give it."""
    ids = np.zeros(size[::-1], np.uint8)
    ids[: size[1] // 2, : size[0] // 2] = 1
    return Painted(ids)


def item(size: Size | None = None, paint: Callable[[Size], Painted] = quarter) -> Item:
    return Item("a", Path("a.jpg"), paint, size=size)


def facts(orientation: int, stored: Size = SIZE) -> Probe:
    return Probe(stored[::-1] if orientation > 4 else stored, orientation, ())


def corner(ids: NDArray[np.uint8]) -> str:
    """Where the labelled quarter of a mask is."""
    rows, columns = np.nonzero(ids)
    return ("upper" if rows.min() == 0 else "lower") + (" left" if columns.min() == 0 else " right")


@pytest.mark.parametrize("drawn_on", ["ask", "stored", "upright"])
@pytest.mark.parametrize(("size", "expected"), [(SIZE, "upper right"), (SIZE[::-1], "upper left")])
def test_a_size_that_only_one_of_them_has_decides(size, expected, drawn_on):
    fixed = item(None, lambda _: quarter(size))  # a mask file, whose own size counts
    for each in (item(size), fixed):
        painted, was_turned = upright_mask(each, facts(6), ImportOptions(drawn_on=drawn_on))
        assert painted.ids.shape == SIZE  # rows, columns: 30 wide, 40 high
        assert corner(painted.ids) == expected
        assert was_turned == (size == SIZE)


CASES = [
    *((orientation, SIZE, annotated) for orientation in (2, 3, 4) for annotated in (SIZE, None)),
    *((orientation, SQUARE, SQUARE) for orientation in (6, 7, 8)),
    (6, SIZE, None),
]
TURNED = {
    2: "upper right",
    3: "lower right",
    4: "lower left",
    6: "upper right",
    7: "lower right",
    8: "lower left",
}


@pytest.mark.parametrize(("orientation", "stored", "annotated"), CASES)
def test_what_sizes_do_not_decide_is_asked(orientation, stored, annotated):
    each, probe = item(annotated), facts(orientation, stored)
    with pytest.raises(Ambiguous, match=rf"a\.jpg is turned by its EXIF data \(orientation {orientation}\)") as asked:
        upright_mask(each, probe, ImportOptions())
    assert asked.value.flag == "--drawn-on"
    assert set(asked.value.readings) == {"stored", "upright"}
    for answer, expected in (("stored", TURNED[orientation]), ("upright", "upper left")):
        painted, was_turned = upright_mask(each, probe, ImportOptions(drawn_on=answer))
        assert corner(painted.ids) == expected
        assert was_turned == (answer == "stored")
        np.testing.assert_array_equal(asked.value.readings[answer].item.paint(SIZE).ids, painted.ids)


def test_a_mask_that_is_the_same_in_both_ways_is_not_asked_about():
    for orientation in range(1, 9):
        assert not upright_mask(item(None, blank), facts(orientation), ImportOptions())[1]
    assert not upright_mask(item(None), facts(5, SQUARE), ImportOptions())[1]  # transposed, the quarter is the same one
    assert corner(upright_mask(item(), facts(1), ImportOptions())[0].ids) == "upper left"


def test_run_lengths_without_a_size_beside_them_decide():
    rle = run_lengths({"size": [30, 40], "counts": [0, 300, 900]})
    painted, was_turned = upright_mask(item(None, painter([Region(1, rle)], "later")), facts(6), ImportOptions())
    assert was_turned
    assert painted.ids.shape == SIZE
    assert painted.ids.sum() == 300


@pytest.mark.parametrize("each", [item((64, 64)), item(None, lambda _: quarter((64, 64)))])
def test_a_mask_of_another_size_fits_in_no_way(each):
    with pytest.raises(UserError, match="64x64"):
        upright_mask(each, facts(6), ImportOptions(drawn_on="stored"))


def test_the_command_asks_with_an_image_of_each_answer(tmp_path, cli):
    """YOLO's shares of the width and height fit the stored image and the upright one."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    (tmp_path / "export").mkdir()
    for k in range(2):
        Image.new("RGB", SIZE).save(tmp_path / f"export/i{k}.jpg", exif=exif)
        (tmp_path / f"export/i{k}.txt").write_text("0 0 0 0.5 0 0.5 0.5 0 0.5\n")
    (tmp_path / "export/classes.txt").write_text("cat\n")
    status, _, err = cli("data", "import", tmp_path / "export", "own")
    assert (status, err.count("\n")) == (2, 1)
    assert "give --drawn-on stored (own-readings/drawn-on-stored.png) or --drawn-on upright (own-" in err
    assert not (tmp_path / "own").exists()
    stored, upright = (Image.open(tmp_path / f"own-readings/drawn-on-{one}.png") for one in ("stored", "upright"))
    assert stored.size == upright.size
    stored, upright = (image.crop((0, 0, *SIZE[::-1])) for image in (stored, upright))  # without the legend
    assert stored.getpixel((25, 5)) == upright.getpixel((5, 5)) != stored.getpixel((5, 5)) == (0, 0, 0)
    for answer, column in (("stored", 25), ("upright", 5)):
        assert cli("data", "import", tmp_path / "export", answer, "--drawn-on", answer)[0] == 0
        assert np.asarray(Image.open(tmp_path / answer / "masks/i0.png"))[5, column] == 1
