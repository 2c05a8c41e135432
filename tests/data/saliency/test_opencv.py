"""OpenCV's saliency: what it marks, and one line where it is not installed."""

from __future__ import annotations

import sys
from types import ModuleType

import numpy as np
import pytest

from barm.data.saliency.opencv import fine_grained, open_cv2, otsu
from barm.errors import UserError


def test_a_bright_square_is_more_salient_than_its_surroundings():
    image = np.full((64, 80, 3), 60, np.uint8)
    image[24:40, 30:50] = (230, 40, 40)
    values = fine_grained(image)
    assert values.shape == (64, 80)
    assert values.dtype == np.float32
    assert 0 <= values.min() < values.max() <= 1
    assert values[26:38, 32:48].mean() > 2 * values[:12].mean()


def test_a_uniform_image_has_nothing_salient():
    grey = np.rint(255 * fine_grained(np.full((20, 30, 3), 128, np.uint8))).astype(np.uint8)
    assert not (grey > otsu(grey)).any()


def test_otsu_parts_two_heaps_of_values():
    grey = np.array([[10, 12, 11, 200], [9, 10, 210, 205]], np.uint8)
    np.testing.assert_array_equal(grey > otsu(grey), grey > 100)


def test_no_opencv_is_one_line_that_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(UserError, match=r"cannot be imported .*pip install 'barm-seg\[saliency\]', or .* --model"):
        open_cv2()


def test_an_opencv_without_contributed_modules_is_one_line(monkeypatch):
    plain = ModuleType("cv2")
    plain.__version__ = "4.10.0"
    monkeypatch.setitem(sys.modules, "cv2", plain)
    with pytest.raises(UserError, match=r"OpenCV 4\.10\.0 .*without its saliency module: .*barm-seg\[saliency\]"):
        open_cv2()
