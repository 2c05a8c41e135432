"""The values and colours in masks are counted as the file has them."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from barm.data.class_values import ClassValues
from barm.data.importers.mask_scan import check_listed, facts_of, in_colour, in_numbers, scan
from barm.errors import UserError

VALUES = np.array([[0, 1, 1], [2, 2, 2]], np.uint8)


def save(path, image):
    image.save(path)
    return path


def test_values_of_all_modes(tmp_path):
    palette = Image.fromarray(VALUES).convert("P")
    palette.putdata(VALUES.ravel().tolist())
    palette.putpalette([9, 9, 9, 255, 0, 0, 0, 0, 255])
    grey = facts_of(save(tmp_path / "l.png", Image.fromarray(VALUES)))
    deep = facts_of(save(tmp_path / "i.png", Image.fromarray(VALUES.astype(np.uint16) * 1000)))
    indexed = facts_of(save(tmp_path / "p.png", palette))
    assert (grey.counts, deep.counts) == ({0: 1, 1: 2, 2: 3}, {0: 1, 1000: 2, 2000: 3})
    assert (indexed.counts, indexed.palette) == (grey.counts, {0: 0x090909, 1: 0xFF0000, 2: 0x0000FF})
    assert facts_of(save(tmp_path / "1.png", Image.fromarray(VALUES > 1))).counts == {0: 3, 1: 3}


def test_colours_and_back(tmp_path):
    colours = np.stack([VALUES] * 3, axis=-1)
    rgb = save(tmp_path / "rgb.png", Image.fromarray(colours))
    facts = scan([rgb])
    assert facts[rgb].colour
    assert facts[rgb].grey
    assert facts[rgb].counts == {0: 1, 0x010101: 2, 0x020202: 3}
    assert in_numbers(facts)[rgb].counts == {0: 1, 1: 2, 2: 3}
    grey = save(tmp_path / "l.png", Image.fromarray(VALUES))
    assert in_colour(scan([grey]))[grey] == facts[rgb]


@pytest.mark.parametrize(
    ("values", "binary"),
    [((0, 255), True), ((0, 1), True), ((1,), True), ((255,), True), ((0, 2), False), ((0, 1, 255), False)],
)
def test_two_values_are_binary(values, binary, tmp_path):
    mask = Image.fromarray(np.array([values], np.uint8))
    assert facts_of(save(tmp_path / "m.png", mask)).binary is binary


def test_what_cannot_be_read_is_left_out(tmp_path):
    (tmp_path / "text.png").write_text("text")
    cmyk = save(tmp_path / "cmyk.tif", Image.new("CMYK", (4, 4)))
    assert scan([tmp_path / "text.png", cmyk, tmp_path / "missing.png"]) == {}


def test_unlisted_values_are_counted_over_all_masks(tmp_path):
    paths = [save(tmp_path / f"{i}.png", Image.fromarray(VALUES + i)) for i in range(2)]
    values = ClassValues(("a",), ((0, 0), (1, 1)), False, None, tmp_path / "classes.toml")
    with pytest.raises(UserError, match=r"0.png: 8 pixels in 2 masks have 2 values that .* \(2 and 3\): add a line"):
        check_listed(scan(paths), values)
    check_listed(scan(paths), ClassValues(("a",), values.ids, False, 0))
