"""The image of an extension: what is shown, why, and in its own shape."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
from PIL import Image

from barm.data.palette import OVERLAY, display_palette
from barm.extension.drawing import choose
from barm.report.extension import Change, draw_changes

FOUND = [0, 10, 40, 20, 30]  # columns of 40 in which the new class is found, by image


class Images:
    """Five images, twice as wide as high, in all but the first of which class 2 is labelled everywhere."""

    def __len__(self) -> int:
        return len(FOUND)

    def __getitem__(self, i: int) -> SimpleNamespace:
        mask = np.full((20, 40), 2 if i else 1, np.uint8)
        return SimpleNamespace(image=Image.new("RGB", (40, 20), (i, 0, 0)), mask=Image.fromarray(mask))

    def classes_in(self, i: int) -> frozenset[int]:
        return frozenset({2 if i else 1})


class Network:
    """Finds as much of class 2 as `FOUND` says."""

    def predict(self, image: Image.Image) -> np.ndarray:
        label = np.zeros((20, 40), np.uint8)
        label[:, : FOUND[image.getpixel((0, 0))[0]]] = 2
        return label


def test_the_best_and_the_worst_images_of_the_new_classes_are_shown():
    assert choose(Images(), Network(), [2]) == [
        (2, "new class: IoU 100 %, best of 4 images"),
        (1, "new class: IoU 25 %, worst of 4 images"),
        (4, "new class: IoU 75 %, rank 2 of 4 images"),
        (3, "new class: IoU 50 %, rank 3 of 4 images"),
    ]
    assert [told for _, told in choose(Images(), Network(), [3])] == ["no new class is labelled"] * 4


def test_images_keep_their_shape_and_lie_under_the_labels(tmp_path):
    image = np.full((20, 60, 3), (10, 200, 10), np.uint8)
    label = np.ones((20, 60), np.uint8)
    change = Change(image, label, np.zeros_like(label), label, "why")
    draw_changes(tmp_path / "x.png", [change], ["background", "a"], display_palette()[:2], "headline")
    drawn = np.asarray(Image.open(tmp_path / "x.png").convert("RGB")).astype(int)
    rows, columns = np.nonzero((np.abs(drawn - [10, 200, 10]) < 3).all(-1))
    first = columns[columns < drawn.shape[1] / 4]
    assert (np.ptp(first) + 1) / (np.ptp(rows) + 1) > 2.8  # three times as wide as high
    grey = (1 - OVERLAY) * (image[0, 0] @ [0.299, 0.587, 0.114])
    assert (np.abs(drawn - [grey, grey, grey + 255 * OVERLAY]) < 3).all(-1).any()  # blue over the image in grey
