"""Compare the masks that an import of COCO polygons made with another rasteriser: point in polygon at pixel centres.

    barm data import export own
    python benchmarks/rasteriser.py export/annotations.json own

prints whether the numbers of objects are the file's, how many pixels differ, how far they are from an outline, and the
least IoU of the objects whose box has more than 64 pixels a side. Later objects are on top; rings are filled.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.path import Path as Outline
from numpy.typing import NDArray
from PIL import Image

LARGE = 64  # pixels of a side of the box of an object whose IoU is measured
Ring = NDArray[np.float64]  # (n, 2): x, y


def covered(rings: Sequence[Ring], size: tuple[int, int]) -> NDArray[np.bool_]:
    """The pixels of an image of ``(width, height)`` whose centre lies in a ring, ``(H, W)``."""
    rows, columns = np.mgrid[: size[1], : size[0]]
    centres = np.stack([columns.ravel() + 0.5, rows.ravel() + 0.5], axis=1)
    inside = [Outline(np.vstack([ring, ring[:1]]), closed=True).contains_points(centres) for ring in rings]
    return np.asarray(np.logical_or.reduce(inside).reshape(size[::-1]))


def distance(points: Ring, rings: Sequence[Ring]) -> NDArray[np.float64]:
    """Distance of points ``(p, 2)`` to the nearest outline, ``(p,)``."""
    starts = np.concatenate(rings)
    steps = np.concatenate([np.roll(ring, -1, 0) for ring in rings]) - starts
    offsets = points[:, None] - starts
    along = (offsets * steps).sum(-1) / np.maximum((steps**2).sum(-1), 1e-12)
    return np.asarray(np.linalg.norm(offsets - along.clip(0, 1)[..., None] * steps, axis=-1).min(1))


def compare(
    mask: NDArray[np.uint8], objects: Sequence[tuple[int, list[Ring]]]
) -> tuple[NDArray[np.float64], list[float]]:
    """Compare a mask with its objects (id, rings): distances of the pixels that differ, IoUs of the large objects."""
    size = (mask.shape[1], mask.shape[0])
    owner = np.full(mask.shape, -1)
    for k, (_, rings) in enumerate(objects):
        owner[covered(rings, size)] = k
    expected = np.array([class_id for class_id, _ in objects] + [0])[owner]
    rows, columns = np.nonzero(mask != expected)
    points = np.stack([columns + 0.5, rows + 0.5], axis=1)
    far = distance(points, [ring for _, rings in objects for ring in rings]) if len(points) else np.zeros(0)
    ious = []
    for k, (class_id, _) in enumerate(objects):
        mine = owner == k
        if not mine.any():
            continue
        y, x = np.nonzero(mine)
        if min(np.ptp(y), np.ptp(x)) + 1 <= LARGE:
            continue
        near = np.zeros_like(mine)
        near[max(0, y.min() - 2) : y.max() + 3, max(0, x.min() - 2) : x.max() + 3] = True
        found = (mask == class_id) & near & (mine | (expected != class_id))
        ious.append(float((mine & found).sum() / (mine | found).sum()))
    return far, ious


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("annotations", type=Path, help="COCO's JSON file")
    parser.add_argument("imported", type=Path, help="the folder that `barm data import` made")
    given = parser.parse_args()
    content = json.loads(given.annotations.read_text("utf-8"))
    report = json.loads((given.imported / "import.json").read_text("utf-8"))
    names: Mapping[int, str] = {entry["id"]: entry["name"] for entry in content["categories"]}
    ids = {entry["name"]: i for i, entry in enumerate(report["classes"], 1)}
    numbers = Counter(names[entry["category_id"]] for entry in content["annotations"])
    equal = all(numbers[entry["name"]] == entry["objects"] for entry in report["classes"])
    print(f"objects: {sum(numbers.values())} in the file; every class {'has as many' if equal else 'DIFFERS'}")
    objects = defaultdict[Any, list[tuple[int, list[Ring]]]](list)
    for entry in content["annotations"]:
        rings = [np.array(ring, float).reshape(-1, 2) for ring in entry["segmentation"]]
        objects[entry["image_id"]].append((ids[names[entry["category_id"]]], rings))
    masks = {path.stem: path for path in (given.imported / "masks").rglob("*.png")}
    far, ious, pixels = list[float](), list[float](), 0
    for image in content["images"]:
        mask = np.asarray(Image.open(masks[Path(image["file_name"]).stem]))
        distances, found = compare(mask, objects[image["id"]])
        far, ious, pixels = [*far, *distances.tolist()], [*ious, *found], pixels + mask.size
    print(f"pixels that differ: {len(far)} of {pixels} ({len(far) / pixels:.2%})")
    print(f"farthest from an outline: {max(far, default=0):.2f} pixels")
    print(f"objects of more than {LARGE} pixels a side: {len(ious)}, least IoU {min(ious, default=1):.4f}")


if __name__ == "__main__":
    main()
