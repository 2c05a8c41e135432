"""Colours and labels of the page."""

from __future__ import annotations

from base64 import b64decode
from io import BytesIO

import numpy as np
from PIL import Image

from barm.report.page import images, views
from barm.report.page.colours import bright


def test_colours_and_images():
    assert bright(255, 255, 0)
    assert not bright(0, 0, 128)
    assert views.signed(-0.0004) == "±0.0"
    ids = np.array([[0, 3], [255, 3]], np.uint8)
    colours = np.arange(768, dtype=np.int64).reshape(256, 3).astype(np.uint8)
    uri = images.labels(ids, colours)
    assert uri.startswith("data:image/png;base64,")
    seen = np.asarray(Image.open(BytesIO(b64decode(uri.partition(",")[2]))).convert("RGBA"))
    k = len(seen) // 2  # small labels are enlarged, so that their outlines are thin
    assert k > 100
    assert seen[k // 2, k // 2, 3] == 0
    assert seen[k // 2, 3 * k // 2].tolist() == [*colours[3].tolist(), images.TINT]
    assert seen[0, k].tolist() == [*colours[3].tolist(), 255]
    assert seen[0, k - 1].tolist() == [0, 0, 0, images.DARK]
    assert seen[3 * k // 2, k // 2].tolist() == [*colours[255].tolist(), images.TINT]
