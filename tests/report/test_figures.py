"""Images of the report: which are shown, and how labels lie over them."""

from __future__ import annotations

import itertools
import warnings

import matplotlib as mpl
import numpy as np
import pytest

from barm.report.figures import best_and_worst, draw_comparison, image_iou


def test_images_are_chosen_by_what_was_learned_and_missed():
    truth = np.array([[1, 1, 2, 255]], np.uint8)
    assert image_iou(truth, truth, [1, 2]) == 1.0
    assert image_iou(np.zeros_like(truth), truth, [2]) == 0.0
    assert image_iou(truth, truth, [3]) is None
    chosen = best_and_worst([0.2, 0.9, None, 0.5], 4)
    assert [(one.place, one.told("a class")) for one in chosen] == [
        (1, "best of 3 images"),
        (0, "worst of 3 images"),
        (3, "rank 2 of 3 images"),
    ]
    assert best_and_worst([None, 0.5], 4)[0].told("a new class") == "the only image with a new class"


@pytest.mark.parametrize("number", [3, 20, 45])
def test_curves_of_many_methods(number, tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr("barm.report.figures.save_figure", lambda figure, path: figures.append(figure))
    draw_comparison(tmp_path / "chart.png", {"15-1": {f"method {i}": [0.7, 0.5] for i in range(number)}})
    (axes,) = figures[0].axes
    looks = [(mpl.colors.to_hex(line.get_color()), line.get_marker()) for line in axes.lines]
    assert len(set(looks)) == number
    first = [mpl.colors.rgb_to_hsv(mpl.colors.to_rgb(colour))[0] for colour, _ in looks[:3]]
    assert min(abs(a - b) for a, b in itertools.combinations(first, 2)) > 0.1  # no light and dark of one hue


def test_long_names_leave_room_for_the_curves(tmp_path):
    """Runs of one method are named with the settings in which they differ."""
    rates = ", ".join(f"increment.lr.{part}=0.001" for part in ("new", "aspp", "old"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of a layout without room
        draw_comparison(tmp_path / "chart.png", {"7-2": {f"{name} ({rates})": [0.6, 0.5] for name in ("mib", "plop")}})
