"""Sizes of a split's images, ``(width, height)``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from barm.data.base import Source
from barm.errors import UserError

Size = tuple[int, int]
LOOKED_AT = 64  # images of a source that does not know their sizes


def image_sizes(source: Source) -> list[Size]:
    """Sizes of all images; of a source that does not know them, sizes of some images, evenly spread.

    Raises:
        UserError: for a source without images.
    """
    known: Sequence[Size] = getattr(source, "sizes", ())
    if known:
        return list(known)
    if not len(source):
        raise UserError("a data source holds no image: expected at least one")
    return [source[i].image.size for i in range(0, len(source), -(-len(source) // LOOKED_AT))]


def by_side(sizes: Iterable[Size]) -> list[Size]:
    """Sort sizes by the longer side, then by the shorter."""
    return sorted(sizes, key=lambda size: (max(size), min(size), size))


def middle(sizes: Iterable[Size]) -> Size:
    """The median size in that order.

    >>> middle([(160, 120), (500, 375), (120, 160)])
    (160, 120)
    """
    ordered = by_side(sizes)
    return ordered[len(ordered) // 2]
