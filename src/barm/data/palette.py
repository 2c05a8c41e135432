"""Names and colours of classes."""

from __future__ import annotations

import csv
from functools import cache
from importlib import resources

import numpy as np
from numpy.typing import NDArray

Palette = NDArray[np.uint8]


@cache
def id_palette() -> Palette:
    """VOC's colour per id, ``(256, 3)`` uint8: the bits of the id spread over red, green and blue.

    Source: spec/deeplab.md section 7.

    >>> id_palette()[[1, 15, 255]].tolist()
    [[128, 0, 0], [192, 128, 128], [224, 224, 192]]
    """
    ids = np.arange(256)
    colours = np.zeros((256, 3), np.uint8)
    for j in range(8):
        for k in range(3):
            if 3 * j + k < 8:
                colours[:, k] |= (((ids >> (3 * j + k)) & 1) << (7 - j)).astype(np.uint8)
    colours.setflags(write=False)
    return colours


@cache
def published(table: str) -> tuple[tuple[str, ...], Palette]:
    """Class names (background first) and palette of ``voc`` or ``ade``, from the tables in the package."""
    text = resources.files("barm").joinpath(f"tables/{table}.csv").read_text("utf-8")
    rows = {int(r["index"]): r for r in csv.DictReader(text.splitlines())}
    colours = id_palette().copy()
    if 0 not in rows:
        colours[0] = 0
    for index, row in rows.items():
        colours[index] = [int(row[c]) for c in "rgb"]
    colours.setflags(write=False)
    names = tuple(rows[i]["name"] if i in rows else "background" for i in range(max(rows) + 1))
    return names, colours
