"""Images of the report: which are shown, and how labels lie over them."""

from __future__ import annotations

import numpy as np

from barm.report.figures import best_and_worst, image_iou


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
