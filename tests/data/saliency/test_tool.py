"""From saliency to a stored map: what is above the threshold is salient, all else is 0."""

from __future__ import annotations

import numpy as np
import pytest

from barm.data.saliency.record import Recipe
from barm.data.saliency.tool import Tool, classical

VALUES = np.array([[0.0, 0.001, 0.4, 0.5, 0.8, 1.0]], np.float32)
IMAGE = np.zeros((1, 6, 3), np.uint8)


@pytest.mark.parametrize(
    ("threshold", "grey", "stored"),
    [
        (0.5, False, [0, 0, 0, 255, 255, 255]),
        (0.5, True, [0, 0, 0, 128, 204, 255]),
        (0.001, True, [0, 1, 102, 128, 204, 255]),  # 0.001 would be 0 as a grey level, which means not salient
        ("otsu", False, [0, 0, 255, 255, 255, 255]),
    ],
)
def test_stored_values(threshold, grey, stored):
    tool = Tool(Recipe(tool="a", version="1"), lambda image: VALUES, threshold, grey)
    made = tool.map_of(IMAGE)
    assert made.dtype == np.uint8
    np.testing.assert_array_equal(made[0], stored)


def test_the_classical_tool_says_what_it_is():
    tool = classical()
    assert tool.recipe.line.startswith("OpenCV fine-grained saliency ")
    assert tool.recipe.line.endswith(", threshold otsu")
    assert classical(0.3, grey=True).recipe.settings == {"threshold": "0.3", "values": "grey"}
