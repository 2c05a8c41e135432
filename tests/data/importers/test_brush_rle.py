"""Label Studio's packed run lengths: what its own converter makes of them, and damaged ones."""

from __future__ import annotations

import numpy as np
import pytest
import writers
from samples import full

from barm.data.importers.brush_rle import brush, check_brush

# Both streams, and the values of the fourth channel, are what label-studio-sdk 2.1.2 encodes and decodes.
RING = [0, 0, 0, 140, 57, 27, 252, 127, 248, 124, 2, 255, 253, 176, 8, 255, 227, 0, 159, 254, 216, 5, 255, 252, 62, 0]
NOISE = [
    *(0, 0, 0, 48, 57, 27, 248, 27, 32, 81, 129, 4, 2, 40, 9, 192, 5, 0, 38, 0, 32, 5, 128, 104, 1, 76, 7, 72, 16, 0),
    *(77, 129, 240, 5, 213, 252, 128, 5, 128, 220, 0, 20, 8, 160, 5, 0, 76, 1, 236, 6, 192, 25, 192, 7, 0, 4, 1, 240),
    *(0, 128, 171, 2, 24, 10, 80),
]


def test_repeated_values_are_decoded():
    expected = np.zeros((5, 7), bool)
    expected[1:4, 2:6] = expected[0, 0] = True
    expected[2, 3] = False
    assert check_brush(RING, (7, 5)) is None
    assert (full(brush(RING, (7, 5)), (7, 5)) == expected).all()


def test_rows_of_different_values_are_decoded():
    alpha = np.array([[69, 4, 233, 186], [200, 200, 200, 200], [138, 108, 31, 165]])
    assert check_brush(NOISE, (4, 3)) is None
    assert (full(brush(NOISE, (4, 3)), (4, 3)) == (alpha >= 128)).all()


def test_long_runs_are_decoded():
    mask = np.zeros((200, 300), bool)
    mask[100:] = True
    rle = writers.packed_stroke(mask)
    assert check_brush(rle, (300, 200)) is None
    assert (full(brush(rle, (300, 200)), (300, 200)) == mask).all()


@pytest.mark.parametrize(
    ("rle", "told"),
    [
        (RING[:-4], "ends early"),
        (RING[:5], "ends early"),
        ([], "ends early"),
        ([0, 0, 0, 144, *RING[4:]], "144 values, but 7x5 pixels have 140"),
        ([*RING[:6], 255, 255, *RING[8:]], "brush"),
        ([0, 0, 0, 140, 249, 27, *RING[6:]], "values of 32 bits"),
        ([1, 2, 300], "no list of bytes"),
        ([True], "no list of bytes"),
        ("AAAA", "no list of bytes"),
        (None, "no list of bytes"),
    ],
)
def test_damaged_strokes_are_described(rle, told):
    assert told in str(check_brush(rle, (7, 5)))


def test_a_stroke_of_another_size_is_not_stretched():
    with pytest.raises(ValueError, match="7x5 pixels, not 5x7"):
        brush(RING, (7, 5))((5, 7))
