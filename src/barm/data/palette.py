"""Names and colours of classes: those of the data sets, and those for display."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray

Palette = NDArray[np.uint8]
OVERLAY = 0.65  # opacity of a class's colour over an image
GROUNDS = (0, 128, 255)  # greys that colours are to be told from, and under a tint
# how a screen's linear red, green and blue are seen; Machado et al. 2009, severity 1
VISIONS = {
    "normal": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
}
# linear red, green and blue -> cone responses, their cube roots -> lightness and two hues; Ottosson 2020, OKLab
_CONES = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_OKLAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)
_LIGHTNESS, _CHROMA = (0.4, 0.95), 0.1  # neither near black nor white, and no grey
_NORMAL = 0.45  # weight of the distance for normal vision, which tells far more colours apart
_NAMED = (0.175, 0.25, 0.06)  # weights of lightness, chroma and direction of hue in what a colour is called
_TONES = 20  # of red, green and blue each, among which the colours are chosen
_MANY = 64  # classes after which tints cannot be told apart and no longer count


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


def oklab(colours: NDArray[Any], vision: str = "normal") -> NDArray[np.float64]:
    """Convert colours to OKLab, where distances match perception, ``(..., 3)``; black to white is 1.

    Args:
        colours: red, green, blue in 0..255, ``(..., 3)``.
        vision: one of `VISIONS`.

    >>> float(oklab(np.array([255, 255, 255]))[0].round(3))
    1.0
    """
    share = np.asarray(colours, np.float64) / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    return np.asarray(np.cbrt(np.clip(linear @ VISIONS[vision].T, 0, 1) @ _CONES.T) @ _OKLAB.T)


def contrast(colours: NDArray[Any], vision: str = "normal") -> float:
    """Smallest distance between two of the colours, as in `oklab`; for at least two colours ``(C, 3)``."""
    seen = oklab(colours, vision)
    apart = np.linalg.norm(seen[:, None] - seen[None], axis=-1)
    return float(apart[~np.eye(len(seen), dtype=bool)].min())


def tint(colours: NDArray[Any], ground: float, opacity: float = OVERLAY) -> NDArray[np.float64]:
    """Blend colours over a grey image, ``(..., 3)`` in 0..255.

    Args:
        colours: red, green, blue in 0..255, ``(..., 3)``.
        ground: the grey, in 0..255.
        opacity: of the colours, in 0..1.

    >>> tint(np.array([255, 0, 0]), 128, 0.5).tolist()
    [191.5, 64.0, 64.0]
    """
    return np.asarray(opacity * np.asarray(colours, np.float64) + (1 - opacity) * ground)


def _seen(colours: NDArray[Any]) -> NDArray[np.float64]:
    """Weighted OKLab colours ``(..., 3)`` for every kind of vision, ``(3, visions, ...)``."""
    weights = [_NORMAL if vision == "normal" else 1.0 for vision in VISIONS]
    seen = [weight * oklab(colours, vision) for weight, vision in zip(weights, VISIONS, strict=True)]
    return np.ascontiguousarray(np.moveaxis(np.stack(seen), -1, 0))


def _tinted(colours: NDArray[Any]) -> NDArray[np.float64]:
    """As `_seen`, for the colours as a tint over every grey, ``(3, visions and greys, ...)``."""
    return np.concatenate([_seen(tint(colours, ground)) for ground in GROUNDS], axis=1)


def _named(colours: NDArray[Any]) -> NDArray[np.float64]:
    """Weighted lightness, hue and direction of hue, ``(5, 1, ...)``, on which the name of a colour depends."""
    lightness, *ab = np.moveaxis(oklab(colours), -1, 0)
    direction = np.asarray(ab) / np.maximum(np.hypot(*ab), 1e-6)
    return np.stack([_NAMED[0] * lightness, *(_NAMED[1] * np.asarray(ab)), *(_NAMED[2] * direction)])[:, None]


def _least(several: NDArray[np.float64], one: NDArray[np.float64]) -> NDArray[np.float64]:
    """Smallest distance over all kinds of vision and greys, ``(D, A, C)`` and ``(D, A)`` -> ``(C,)``."""
    return np.asarray(np.sqrt(np.square(several - one[..., None]).sum(axis=0).min(axis=0)))


@cache
def display_palette() -> Palette:
    """Colours for display, ``(256, 3)`` uint8, in the order in which classes are learned.

    Black for the background, white for 255. Each class has the colour that is farthest from those before it, as it is
    and as a tint over black, grey and white, and that is far from these three; for normal vision, protanopia and
    deuteranopia alike. In normal vision the hue counts besides. So the first have most contrast. Masks
    keep the data set's own palette.

    >>> display_palette()[:4].tolist()
    [[0, 0, 0], [0, 0, 255], [0, 228, 0], [255, 94, 215]]
    """
    tones = np.linspace(0, 255, _TONES).round()
    every = np.stack(np.meshgrid(tones, tones, tones, indexing="ij"), axis=-1).reshape(-1, 3)
    lightness, a, b = oklab(every).T
    every = every[(lightness >= _LIGHTNESS[0]) & (lightness <= _LIGHTNESS[1]) & (np.hypot(a, b) >= _CHROMA)]
    views = [(view, view(every)) for view in (_seen, _tinted, _named)]
    least = np.min([_least(views[0][1], _seen(np.full(3, ground))) for ground in GROUNDS], axis=0)
    colours = np.full((256, 3), 255, np.uint8)
    colours[0] = 0
    for place in range(1, 255):
        best = int(least.round(9).argmax())  # rounded, so that every machine chooses the same
        colours[place] = every[best]
        least = np.min(
            [least, *(_least(seen, view(every[best])) for view, seen in views[: 1 if place > _MANY else None])], axis=0
        )
    colours.setflags(write=False)
    return colours


def display_colours(names: Iterable[str]) -> dict[str, tuple[int, int, int]]:
    """The display colour of each class by name; a repeated name keeps its colour.

    Args:
        names: in the order of learning, background first; of several runs one after the other.

    >>> display_colours(["background", "cat", "background", "dog", "cat"])["dog"]
    (0, 228, 0)
    """
    different = list(dict.fromkeys(names))
    table = display_palette().tolist()
    return {name: tuple(table[min(place, 254)]) for place, name in enumerate(different)}
