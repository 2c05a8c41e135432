"""The built-in data: scenes of coloured, textured silhouettes as a pure function of (seed, split, index).

A class is a silhouette with its own range of hues and its own texture. Several classes share every silhouette and
several share every hue, so that neither decides alone. It stands in for real data in the demo, the tests and the
benchmarks.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from barm.errors import UserError
from barm.labels import IGNORE

MAX_SHAPES = 150
MIN_SIDE, MAX_SIDE = 32, 2048
SUPERSAMPLING = 3
HUES = {"crimson": 0.985, "amber": 0.11, "green": 0.36, "blue": 0.59, "violet": 0.79}
TEXTURES = ("plain", "striped", "dotted")
Floats = NDArray[np.float32]


class Scene(NamedTuple):
    """One generated image.

    Attributes:
        image: RGB, ``(H, W, 3)`` uint8.
        mask: class ids 0..num_classes, 255 on the objects' borders, ``(H, W)`` uint8.
        saliency: 255 on objects, 0 elsewhere, ``(H, W)`` uint8.
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    saliency: NDArray[np.uint8]


def _star(u: Floats, v: Floats) -> NDArray[np.bool_]:
    angle, radius = np.arctan2(v, u), np.hypot(u, v)
    wave = np.abs(((angle / (2 * np.pi) * 5) % 1) - 0.5) * 2  # 1 on the points, 0 between them
    return np.asarray(radius < 0.42 + 0.58 * wave**1.3)


def _triangle(u: Floats, v: Floats) -> NDArray[np.bool_]:
    return np.asarray((v < 0.6) & (v > 1.732 * np.abs(u) - 1.0))


def _arrow(u: Floats, v: Floats) -> NDArray[np.bool_]:
    head = (v < 0.05) & (v > 1.15 * np.abs(u) - 1.0)
    return np.asarray(head | ((np.abs(u) < 0.3) & (v >= 0) & (v < 0.95)))


def _heart(u: Floats, v: Floats) -> NDArray[np.bool_]:
    x, y = u * 1.2, -v * 1.2 + 0.1
    return np.asarray((x**2 + y**2 - 1) ** 3 - x**2 * y**3 < 0)


SILHOUETTES: dict[str, Callable[[Floats, Floats], NDArray[np.bool_]]] = {
    "disc": lambda u, v: u**2 + v**2 < 0.9,
    "square": lambda u, v: np.maximum(np.abs(u), np.abs(v)) < 0.78,
    "triangle": _triangle,
    "star": _star,
    "cross": lambda u, v: (np.minimum(np.abs(u), np.abs(v)) < 0.3) & (np.maximum(np.abs(u), np.abs(v)) < 0.95),
    "ring": lambda u, v: (u**2 + v**2 < 0.98) & (u**2 + v**2 > 0.3),
    "heart": _heart,
    "hexagon": lambda u, v: np.maximum(np.abs(u), 0.5 * np.abs(u) + 0.866 * np.abs(v)) < 0.9,
    "crescent": lambda u, v: (u**2 + v**2 < 0.98) & ((u - 0.5) ** 2 + v**2 > 0.55),
    "arrow": _arrow,
}


class _Style(NamedTuple):
    silhouette: str
    hue: str
    texture: str


@cache
def _styles() -> tuple[_Style, ...]:
    """The 150 combinations, ordered so that the first ten classes already share five silhouettes and five hues."""
    shapes, hues = tuple(SILHOUETTES), tuple(HUES)
    half = len(shapes) // 2
    styles = []
    for k in range(MAX_SHAPES):
        block, place = divmod(k, 10)
        side, m = (block % 2, (block // 2) * 10 + place) if k < 140 else (place // half, 70 + place % half)
        s, visit = m % half, m // half
        styles.append(_Style(shapes[side * half + s], hues[(visit + 2 * s) % 5], TEXTURES[(2 * visit + s) % 3]))
    assert len(set(styles)) == MAX_SHAPES
    return tuple(styles)


def class_names(num_classes: int) -> tuple[str, ...]:
    """Names of the foreground classes, such as ``crimson-plain-disc``.

    Raises:
        UserError: unless ``1 <= num_classes <= 150``.
    """
    if not 1 <= num_classes <= MAX_SHAPES:
        raise UserError(f"shapes has 1 to {MAX_SHAPES} classes, asked for {num_classes}; choose a number in that range")
    return tuple(f"{style.hue}-{style.texture}-{style.silhouette}" for style in _styles()[:num_classes])


def render(
    index: int, *, split: str, num_classes: int, size: tuple[int, int], seed: int, tops: Sequence[int] = ()
) -> Scene:
    """Draw one scene of 1 to 4 objects of distinct classes.

    Args:
        index: number of the image in its split.
        split: ``train`` or ``val``; other splits show other scenes.
        num_classes: 1..150.
        size: ``(width, height)`` in pixels.
        seed: of the whole data set.
        tops: ids of the classes that are drawn on top in turn, and then alone have ignored borders. By default all
            classes are, and all have such borders.

    Returns:
        Image, mask and saliency; the same for the same arguments on every machine.
    """
    width, height = size
    rng = np.random.default_rng([seed, crc32(split.encode()), index])
    image = _background(rng, height, width)
    mask = np.zeros((height, width), np.uint8)
    band = 1 if min(size) < 200 else 3
    for class_id in _draw_classes(rng, index, num_classes, tops):
        _paint(rng, image, mask, class_id, band if not tops or class_id in tops else 0)
    noise = rng.normal(0, 0.018, image.shape).astype(np.float32)
    pixels = ((image + noise).clip(0, 1) * 255).round().astype(np.uint8)
    return Scene(pixels, mask, np.where(mask > 0, 255, 0).astype(np.uint8))


def _draw_classes(rng: np.random.Generator, index: int, num_classes: int, tops: Sequence[int]) -> list[int]:
    """Draw distinct class ids.

    The last one, drawn on top, cycles through `tops`, so that each of them is equally frequent.
    """
    count = min(int(rng.choice([1, 2, 3, 4], p=[0.25, 0.35, 0.25, 0.15])), num_classes)
    top = tops[index % len(tops)] if tops else index % num_classes + 1
    others = [i for i in range(1, num_classes + 1) if i != top]
    return [int(i) for i in rng.choice(others, count - 1, replace=False)] + [top] if count > 1 else [top]


def _background(rng: np.random.Generator, height: int, width: int) -> Floats:
    """A muted, uneven, textured background: two scales of smooth noise around two dull colours."""
    a, b = (
        np.array(colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.03, 0.2), rng.uniform(0.3, 0.8))) for _ in range(2)
    )
    blend = 0.65 * _smooth(rng, 4, height, width) + 0.35 * _smooth(rng, 14, height, width)
    image = a + (b - a) * blend[..., None]
    grain = (_smooth(rng, max(8, min(height, width) // 3), height, width) - 0.5) * rng.uniform(0.05, 0.2)
    return np.asarray(image + grain[..., None], np.float32)


def _smooth(rng: np.random.Generator, cells: int, height: int, width: int) -> Floats:
    """Bilinear noise in 0..1, ``(H, W)``."""
    grid = rng.random((cells + 1, cells + 1)).astype(np.float32)
    y, x = (np.linspace(0, cells, n, endpoint=False, dtype=np.float32) for n in (height, width))
    iy, ix = y.astype(int), x.astype(int)
    fy, fx = (y - iy)[:, None], (x - ix)[None]
    rows = grid[iy] * (1 - fy) + grid[iy + 1] * fy
    return np.asarray(rows[:, ix] * (1 - fx) + rows[:, ix + 1] * fx, np.float32)


def _paint(rng: np.random.Generator, image: Floats, mask: NDArray[np.uint8], class_id: int, band: int) -> None:
    """Draw one object over what is there, in place, with smooth edges and, for a `band` above 0, an ignored border."""
    height, width = mask.shape
    radius = rng.uniform(0.17, 0.34) * min(height, width)
    cy, cx = rng.uniform(0.15, 0.85) * height, rng.uniform(0.15, 0.85) * width
    turn, stretch = rng.uniform(0, 2 * np.pi), rng.uniform(0.85, 1.15)
    reach = int(radius * 1.2) + 2
    y0, y1 = max(int(cy) - reach, 0), min(int(cy) + reach + 1, height)
    x0, x1 = max(int(cx) - reach, 0), min(int(cx) + reach + 1, width)

    n = SUPERSAMPLING
    ys = (y0 + (np.arange((y1 - y0) * n, dtype=np.float32) + 0.5) / n - cy) / radius
    xs = (x0 + (np.arange((x1 - x0) * n, dtype=np.float32) + 0.5) / n - cx) / radius
    dy, dx = np.meshgrid(ys, xs, indexing="ij")
    u = (dx * np.cos(turn) + dy * np.sin(turn)).astype(np.float32) * stretch
    v = (-dx * np.sin(turn) + dy * np.cos(turn)).astype(np.float32) / stretch
    style = _styles()[class_id - 1]
    inside = SILHOUETTES[style.silhouette](u, v).astype(np.float32)
    colour = _colour(rng, style, u, v)

    def shrink(values: Floats) -> Floats:
        shape = (y1 - y0, n, x1 - x0, n, *values.shape[2:])
        return np.asarray(values.reshape(shape).mean(axis=(1, 3)), np.float32)

    cover = shrink(inside)
    area = (slice(y0, y1), slice(x0, x1))
    image[area] += shrink(colour * inside[..., None]) - image[area] * cover[..., None]
    mask[area][cover >= 0.5] = class_id
    if band:
        edge = (cover > 0.15) & (cover < 0.85)
        mask[area][_widen(edge, band)] = IGNORE


def _colour(rng: np.random.Generator, style: _Style, u: Floats, v: Floats) -> Floats:
    """The object's colour per supersampled pixel, ``(h, w, 3)``: hue, texture and soft shading."""
    hue = (HUES[style.hue] + rng.uniform(-0.035, 0.035)) % 1
    saturation, value = rng.uniform(0.6, 0.95), rng.uniform(0.6, 0.95)
    front = np.array(colorsys.hsv_to_rgb(hue, saturation, value), np.float32)
    back = np.array(colorsys.hsv_to_rgb(hue, saturation * 0.45, min(1.0, value * 1.25)), np.float32)
    period = rng.uniform(0.5, 0.66)
    if style.texture == "striped":
        second = ((u / period) % 1) < 0.5
    elif style.texture == "dotted":
        second = np.hypot((u / period) % 1 - 0.5, (v / period) % 1 - 0.5) < 0.33
    else:
        second = np.zeros_like(u, bool)
    shade = 1 + 0.12 * np.clip(v, -1, 1) * rng.choice([-1, 1])
    return np.asarray(np.where(second[..., None], back, front) * shade[..., None], np.float32)


def _widen(edge: NDArray[np.bool_], band: int) -> NDArray[np.bool_]:
    """Dilate a thin line until it is about `band` pixels wide."""
    for _ in range(band // 2):
        grown = edge.copy()
        grown[1:] |= edge[:-1]
        grown[:-1] |= edge[1:]
        grown[:, 1:] |= edge[:, :-1]
        grown[:, :-1] |= edge[:, 1:]
        edge = grown
    return edge
