"""Pixels of polygons and run lengths, and of objects that lie over each other.

pycocotools fills the polygons, so that a mask is what COCO's own tools would make of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from barm.data.importers.annotations import Background, Cover, Layers, Overlap, Painted, Patch, Region, Size, Undecided
from barm.labels import IGNORE

Ring = NDArray[np.float64]  # (n, 2): x, y in pixels from the image's upper left corner
INSIDE = 0.95  # share of a ring's area that lies in another ring, from which it is inside of it
CORNERS = 180  # of the polygon that stands for an ellipse
SMALL = 8  # pixels; a smaller ring inside another is a slip of the hand, and makes no difference


def polygon(rings: Sequence[Ring], *, holes: bool = False) -> Cover:
    """The pixels of a polygon of one or several rings.

    Args:
        rings: each ``(n, 2)`` with at least 3 points.
        holes: a ring inside another one is a hole in it; otherwise all rings are filled.
    """
    return partial(_rings, tuple(rings), holes)


def run_lengths(rle: Mapping[str, Any]) -> Cover:
    """The pixels of COCO's run lengths, compressed (a string) or not (a list of numbers).

    Args:
        rle: ``size`` (height, width) and ``counts``, as `check_run_lengths` accepts them.
    """
    return partial(_runs, dict(rle))


def rectangle(left: float, top: float, right: float, bottom: float) -> Cover:
    """The pixels of a box with sides parallel to the image's, in pixels."""
    return polygon([np.array([(left, top), (right, top), (right, bottom), (left, bottom)], float)])


def ellipse(x: float, y: float, width: float, height: float) -> Cover:
    """The pixels of an ellipse around a point, with the half axes `width` and `height`, in pixels."""
    return polygon([ellipse_ring(x, y, width, height)])


def ellipse_ring(x: float, y: float, width: float, height: float) -> Ring:
    """Points on an ellipse around a point, with the half axes `width` and `height`."""
    angle = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)
    return np.stack([x + width * np.cos(angle), y + height * np.sin(angle)], 1)


def rotated(ring: Ring, x: float, y: float, degrees: float) -> Ring:
    """A ring after a clockwise turn around a point."""
    angle = np.deg2rad(degrees)
    turn = np.array([(np.cos(angle), np.sin(angle)), (-np.sin(angle), np.cos(angle))])
    return np.asarray((ring - (x, y)) @ turn + (x, y))


def drawn(ring_of: Callable[[Size], Ring]) -> Cover:
    """The pixels of a polygon whose points depend on the image's size ``(width, height)``."""
    return partial(_drawn, ring_of)


def relative(ring: Ring) -> Cover:
    """The pixels of a polygon whose points are shares of the image's width and height."""
    return drawn(partial(np.multiply, ring))


def stamp(mask: NDArray[np.bool_], left: int, top: int) -> Cover:
    """The pixels of a small mask that lies in the image; what reaches beyond the image is cut off.

    Args:
        mask: ``(h, w)``.
        left: column of its first pixel, which may be negative.
        top: row of its first pixel.
    """
    return partial(_stamped, mask, left, top)


def check_run_lengths(rle: Mapping[str, Any]) -> str | None:
    """Describe what is wrong with COCO's run lengths; None if nothing is."""
    size, counts = rle.get("size"), rle.get("counts")
    if not (isinstance(size, list) and len(size) == 2 and all(type(n) is int and 0 < n < 2**15 for n in size)):
        return f"the run lengths' size is {str(size)[:40]}, expected [height, width]"
    total = size[0] * size[1]
    if isinstance(counts, list):
        if not all(type(n) is int and n >= 0 for n in counts):
            return "the run lengths hold something other than numbers from 0"
        covered = sum(counts)
    elif isinstance(counts, str) and counts.isascii():
        covered = _compressed_total(counts)
    else:
        return f"the run lengths' counts are {type(counts).__name__}, expected a list or a string"
    if covered != total:
        return f"the run lengths cover {covered} pixels, but {size[1]}x{size[0]} are {total}"
    return None


def nested(rings: Sequence[Ring], size: Size) -> bool:
    """Whether a ring lies inside another one, so that it may be a hole."""
    if len(rings) < 2:
        return False
    runs = [_encoded(ring, size) for ring in rings]
    areas = [float(a) for a in coco_mask.area(runs)]
    for i, inner in enumerate(runs):
        for j, outer in enumerate(runs):
            if i != j and SMALL <= areas[i] < areas[j]:
                common = float(coco_mask.area(coco_mask.merge([inner, outer], intersect=True)))
                if common >= INSIDE * areas[i]:
                    return True
    return False


def paint(regions: Sequence[Region], overlap: Overlap, size: Size, background: Background = "ask") -> Painted:
    """Paint the objects of an image, one after the other, each within its box.

    The pixels of one object at a time are in memory; they are computed again where they are needed again.

    Args:
        regions: in the source's order. One with the id 0 is a part of the image that is called background.
        overlap: which object a pixel belongs to that several cover: the ``later`` one of the source, the ``earlier``
            one, the one with the ``smaller`` area, or none of several classes (``ignore``: 255).
        size: ``(width, height)``.
        background: whether what is called background takes its pixels out of the objects before it (``cut``), whatever
            `overlap` is, or lies ``below`` all objects.

    Raises:
        Undecided: where that makes a difference and nothing says which.
    """
    upper = _Upper([region for region in regions if not region.below], size, cut=background != "below")
    objects = [i for i, region in enumerate(upper.regions) if region.class_id]
    if background == "ask" and upper.last is not None and sum(map(upper.hidden, objects)) >= SMALL:
        answers = {answer: partial(paint, regions, overlap, background=answer) for answer in ("cut", "below")}
        raise Undecided("an object that is called background lies over others", "--background", answers)
    if overlap == "smaller":
        areas = {i: int(upper.patch(i).mask.sum()) for i in objects}
        objects = sorted(objects, key=lambda i: -areas[i])
    ids = np.zeros(size[::-1], np.uint8)
    taken, contested = np.zeros(size[::-1], bool), np.zeros(size[::-1], bool)
    for region in regions:
        if region.below:
            patch = region.cover(size)
            ids[patch.box][patch.mask] = region.class_id
    for i in objects if overlap != "earlier" else objects[::-1]:
        class_id, patch = upper.regions[i].class_id, upper.patch(i)
        contested[patch.box] |= patch.mask & taken[patch.box] & (ids[patch.box] != class_id)
        ids[patch.box][patch.mask] = class_id
        taken[patch.box] |= patch.mask
    if overlap == "ignore":
        ids[contested] = IGNORE
    counts = Counter(region.class_id for region in regions if region.class_id and not region.further)
    return Painted(ids, counts, int(contested.sum()), len(upper.empty))


def painter(regions: Sequence[Region], overlap: Overlap, background: Background = "ask") -> Layers:
    """`paint` for an item's regions, as `Item.paint` wants it."""
    return Layers(tuple(regions), partial(_painted, overlap, background))


def _painted(overlap: Overlap, background: Background, regions: Sequence[Region], size: Size) -> Painted:
    return paint(regions, overlap, size, background)


def cropped(mask: NDArray[np.bool_], left: int = 0, top: int = 0) -> Patch:
    """The part of a mask that holds pixels, as a copy.

    Args:
        mask: ``(h, w)``.
        left: column of the mask in the image.
        top: row of the mask in the image.
    """
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return Patch(0, 0, np.zeros((0, 0), bool))
    y, x = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    return Patch(left + int(columns[0]), top + int(rows[0]), mask[y, x].copy())


class _Upper:
    """The regions that do not lie below all others.

    Args:
        regions: in the source's order.
        size: ``(width, height)``.
        cut: whether what is called background takes its pixels out of the objects before it.

    Attributes:
        last: by pixel, one more than the place of the last region that is called background; None if there is none.
        empty: places of objects that have no pixels of their own.
    """

    def __init__(self, regions: Sequence[Region], size: Size, *, cut: bool) -> None:
        self.regions, self.size, self.empty = regions, size, set[int]()
        self.last: NDArray[np.unsignedinteger] | None = None
        for i, region in enumerate(regions):
            if cut and region.class_id == 0:
                if self.last is None:
                    self.last = np.zeros(size[::-1], np.min_scalar_type(len(regions)))
                patch = region.cover(size)
                self.last[patch.box][patch.mask] = i + 1

    def patch(self, i: int) -> Patch:
        """The pixels of an object, without what background takes out of it."""
        patch = self.regions[i].cover(self.size)
        if not patch.mask.any():
            self.empty.add(i)
        return patch if self.last is None else patch._replace(mask=patch.mask & (self.last[patch.box] <= i))

    def hidden(self, i: int) -> int:
        """Number of pixels of an object that lie below a later part that is called background."""
        patch = self.regions[i].cover(self.size)
        return 0 if self.last is None else int((patch.mask & (self.last[patch.box] > i)).sum())


def _drawn(ring_of: Callable[[Size], Ring], size: Size) -> Patch:
    return _filled(ring_of(size), size)


def _stamped(mask: NDArray[np.bool_], left: int, top: int, size: Size) -> Patch:
    width, height = size
    part = mask[max(0, -top) : max(0, height - top), max(0, -left) : max(0, width - left)]
    return cropped(part, max(0, left), max(0, top))


def _rings(rings: tuple[Ring, ...], holes: bool, size: Size) -> Patch:
    runs = [_encoded(ring, size) for ring in rings]
    frame = _unpacked(coco_mask.merge(runs))
    if not holes or len(runs) == 1:
        return frame
    result = np.zeros_like(frame.mask)
    for k in np.argsort(-coco_mask.area(runs).astype(np.int64), kind="stable"):  # from outside to inside
        patch = _unpacked(runs[k])
        box = patch._replace(left=patch.left - frame.left, top=patch.top - frame.top).box
        area = int(patch.mask.sum())
        inside = area > 0 and int((patch.mask & result[box]).sum()) >= INSIDE * area
        result[box] = result[box] & ~patch.mask if inside else result[box] | patch.mask
    return frame._replace(mask=result)


def _filled(ring: Ring, size: Size) -> Patch:
    """The pixels of one ring. It is filled in the whole image: elsewhere the rasteriser may round otherwise."""
    return _unpacked(_encoded(ring, size))


def _runs(rle: dict[str, Any], size: Size) -> Patch:
    height, width = rle["size"]
    if (width, height) != size:
        raise ValueError(f"its run lengths are of {width}x{height} pixels, not {size[0]}x{size[1]}")
    if isinstance(rle["counts"], list):
        flags = np.arange(len(rle["counts"])) % 2 == 1
        return cropped(np.asarray(np.repeat(flags, rle["counts"]).reshape(width, height).T))
    return _unpacked({"size": rle["size"], "counts": rle["counts"].encode()})


def _encoded(ring: Ring, size: Size) -> Any:
    rings: Any = [ring.ravel().tolist()]
    (runs,) = coco_mask.frPyObjects(rings, size[1], size[0])
    return runs


def _unpacked(runs: Any) -> Patch:
    """The pixels of compressed run lengths."""
    left, top, width, height = (int(n) for n in coco_mask.toBbox(runs))
    return Patch(left, top, coco_mask.decode(runs)[top : top + height, left : left + width].astype(bool, order="C"))


def _compressed_total(text: str) -> int:
    """The sum of compressed run lengths; -1 if they are damaged.

    A character holds 5 bits from 48 on, the lowest first, and a length is relative to the last but one.
    """
    counts, value, shift = list[int](), 0, 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64:
            return -1
        value |= (code & 31) << shift
        shift += 5
        if code & 32:
            if shift > 40:
                return -1
            continue
        if code & 16:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value, shift = 0, 0
    return -1 if shift or min(counts, default=0) < 0 else sum(counts)
