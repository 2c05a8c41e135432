"""The Python interface where it offers more than the command line."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import barm
from barm.data.base import Sample
from barm.data.palette import id_palette

SIDE = 48


class Squares:
    """A data set that exists nowhere on disk: two squares, the left of class 1 or 2, the right of class 3."""

    class_names = ("background", "red", "green", "blue")
    palette = id_palette()

    def __len__(self) -> int:
        return 12

    def name(self, i: int) -> str:
        return f"squares-{i}"

    def classes_in(self, i: int) -> frozenset[int]:
        return frozenset({1 + i % 2, 3})

    def __getitem__(self, i: int) -> Sample:
        mask = np.zeros((SIDE, SIDE), np.uint8)
        mask[8:40, 4:20], mask[8:40, 28:44] = 1 + i % 2, 3
        image = np.zeros((SIDE, SIDE, 3), np.uint8)
        for c in (1, 2, 3):
            image[mask == c, c - 1] = 255
        return Sample(Image.fromarray(image), Image.fromarray(mask), {})


def test_any_source_will_do(tiny_settings, tmp_path):
    data, out = (Squares(), Squares()), tmp_path / "run"
    metrics = barm.fit(
        "shapes/barm", out=out, data=data, overrides=[*tiny_settings, "task.name=2-1", "base.epochs=2"], quiet=True
    )
    assert [m["learned"] for m in metrics] == [["red", "green"], ["blue"]]
    assert barm.evaluate(out, data=data) == metrics[-1]
    model = barm.load(out, 0)
    assert model.class_names == ("background", "red", "green")
    assert model.predict(data[1][0].image).shape == (SIDE, SIDE)
    with pytest.raises(barm.UserError, match="no finished step 7"):
        barm.load(out, 7)
    with pytest.raises(barm.UserError, match="no data set"):
        barm.evaluate(out)
