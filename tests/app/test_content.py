"""What the page draws and counts."""

from __future__ import annotations

import numpy as np

from barm.app.content import agreement, draw, enlargement, hide, shares

NAMES, COLOURS = ("background", "red", "green"), np.array([[0, 0, 0], [200, 0, 0], [0, 200, 0]], np.uint8)
LABEL = np.array([[0, 1], [2, 2]], np.uint8)
GREY = np.full((2, 2, 3), 100, np.uint8)


def test_composition():
    assert hide(LABEL, NAMES, ["green"]).tolist() == [[0, 0], [2, 2]]
    assert shares(LABEL, NAMES) == {"background": 0.25, "red": 0.25, "green": 0.5}
    assert agreement(LABEL, NAMES, np.array([[0, 2], [2, 1]], np.uint8), ("background", "green", "red")) == 0.75
    k = enlargement(LABEL.shape)
    half = draw(GREY, LABEL, COLOURS, NAMES, NAMES, 0.5)
    assert half.shape == (2 * k, 2 * k, 3)
    middle = half[k // 2 :: k, k // 2 :: k]
    assert middle.tolist() == [[[100] * 3, [150, 50, 50]], [[50, 150, 50]] * 2]
    assert half[0, k].tolist() == COLOURS[1].tolist()  # the outline is opaque
    assert (half[0, k - 1] < 100).all()  # and the image dark beside it
    assert (draw(GREY, LABEL, COLOURS, NAMES, [], 1) == 100).all()
    assert (draw(GREY, LABEL, COLOURS, NAMES, NAMES, 0) == 100).all()
