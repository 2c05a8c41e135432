"""Generated images with objects of known outlines, and the masks that an independent rasteriser makes of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.path import Path as Outline
from numpy.typing import NDArray
from PIL import Image

from barm.data.importers.annotations import Cover

Ring = NDArray[np.float64]  # (n, 2): x, y in pixels
Object = tuple[str, list[Ring]]  # label; the outline, then holes
Sample = tuple[Image.Image, list[Object]]
LABELS = ("cat", "dog", "hot dog")
SIZE = (160, 120)


def blob(x: float, y: float, radius: float, seed: int, points: int = 24) -> Ring:
    """A closed outline around a point that is no circle."""
    angle = np.linspace(0, 2 * np.pi, points, endpoint=False)
    far = radius * np.random.default_rng(seed).uniform(0.75, 1, points)
    return np.stack([x + far * np.cos(angle), y + far * np.sin(angle)], 1)


def box(left: float, top: float, right: float, bottom: float) -> Ring:
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)], float)


def full(cover: Cover, size: tuple[int, int]) -> NDArray[np.bool_]:
    """A region's pixels in an image of ``(width, height)``, ``(H, W)``."""
    mask, patch = np.zeros(size[::-1], bool), cover(size)
    mask[patch.box] = patch.mask
    return mask


def samples(*, holes: bool = False, number: int = 2) -> list[Sample]:
    """Images with a large object, a small one, and one that reaches over the edge of nothing else."""
    result = list[Sample]()
    for i in range(number):
        rng = np.random.default_rng(i)
        image = Image.fromarray(rng.integers(0, 256, (SIZE[1], SIZE[0], 3), dtype=np.uint8))
        outer = [blob(48, 58, 46, i)]
        if holes:
            outer.append(blob(48, 58, 14, i + 9))
        objects = [
            (LABELS[0], outer),
            (LABELS[1], [box(100.5, 10, 130, 40.25)]),
            (LABELS[2], [blob(126, 86, 26, i + 5)]),
        ]
        result.append((image, objects))
    return result


def truth(objects: list[Object], labels: tuple[str, ...] = LABELS) -> NDArray[np.uint8]:
    """Ids by pixel centres, later objects above earlier ones, ``(H, W)``."""
    ids = np.zeros(SIZE[::-1], np.uint8)
    for label, (outer, *inner) in objects:
        inside = _covers(outer)
        for ring in inner:
            inside &= ~_covers(ring)
        ids[inside] = labels.index(label) + 1
    return ids


def compare(mask: NDArray[np.uint8], objects: list[Object], labels: tuple[str, ...] = LABELS) -> None:
    """Assert that a mask is that of the objects: within 1.5 pixels of boundaries, IoU 0.98 for large objects."""
    expected = truth(objects, labels)
    rows, columns = np.nonzero(mask != expected)
    segments = [(ring, np.roll(ring, -1, 0)) for _, rings in objects for ring in rings]
    for x, y in zip(columns + 0.5, rows + 0.5, strict=True):
        assert min(_distance(np.array([x, y]), a, b) for a, b in segments) <= 1.5, (x, y)
    for label, (outer, *_) in objects:
        if np.ptp(outer, axis=0).min() > 64:
            ours, theirs = mask == labels.index(label) + 1, expected == labels.index(label) + 1
            assert (ours & theirs).sum() / (ours | theirs).sum() >= 0.98


def imported(root: Path, number: int) -> NDArray[np.uint8]:
    """The mask of an image that was written as ``imageN``."""
    (path,) = root.glob(f"masks/**/*image{number}.png")
    return np.asarray(Image.open(path))


def _covers(ring: Ring) -> NDArray[np.bool_]:
    columns, rows = np.meshgrid(np.arange(SIZE[0]) + 0.5, np.arange(SIZE[1]) + 0.5)
    centres = np.stack([columns.ravel(), rows.ravel()], 1)
    return Outline(np.vstack([ring, ring[:1]]), closed=True).contains_points(centres).reshape(rows.shape)


def _distance(point: NDArray[np.float64], starts: Ring, ends: Ring) -> float:
    along = ends - starts
    share = ((point - starts) * along).sum(1) / np.maximum((along**2).sum(1), 1e-9)
    nearest = starts + along * share.clip(0, 1)[:, None]
    return float(np.hypot(*(nearest - point).T).min())
