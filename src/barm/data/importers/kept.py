"""The classes that an import keeps, and masks in which the others hide none of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from barm.data.importers.annotations import ImportOptions, Item, Layers, Painted, Size
from barm.data.importers.undecided import answered
from barm.errors import UserError
from barm.labels import IGNORE


def kept_classes(classes: Sequence[str], options: ImportOptions) -> tuple[tuple[str, ...], NDArray[np.uint8]]:
    """The names to keep, and the table from the importer's ids to theirs, ``(256,)``.

    Raises:
        UserError: for a class that the source does not have, or if there is none.
    """
    unknown = [name for name in options.classes if name not in classes]
    if unknown:
        raise UserError(f"no class '{unknown[0]}': the source has {', '.join(classes)}")
    names = options.classes or tuple(classes)
    if not names:
        raise UserError("the source names no class but background: expected at least one")
    table = np.full(256, IGNORE if options.rest == "ignore" else 0, np.uint8)
    table[0], table[IGNORE] = 0, IGNORE
    for i, name in enumerate(classes, 1):
        if name in names:
            table[i] = names.index(name) + 1
    return names, table


def keeping(item: Item, kept: Collection[int], options: ImportOptions) -> Item:
    """The item as if it had been annotated without other classes; if they are ignored, they lie below the kept ones.

    A format of masks with one value per pixel has nothing that could be hidden: its item is returned as it is.

    Args:
        item: an annotated image.
        kept: the importer's ids of classes.
        options: choices.
    """
    layers = item.paint
    if not isinstance(layers, Layers):
        return item
    others = {each[0] for each in layers.objects} - {0, IGNORE, *kept}
    if not others or all(each[0] in (0, *others) for each in layers.objects):
        return item
    top = replace(item, paint=layers.only({0, IGNORE, *kept}))
    if options.rest == "background":  # nobody sees the others
        return top
    rest = replace(item, paint=layers.only({0, *others}))
    return replace(item, paint=partial(_over, answered(top, options).paint, answered(rest, options).paint, min(others)))


def _over(above: Callable[[Size], Painted], below: Callable[[Size], Painted], other: int, size: Size) -> Painted:
    """One mask, and where it is background the pixels of another one, as those of the class `other`."""
    top, rest = above(size), below(size)
    ids = np.where((top.ids == 0) & (rest.ids > 0), np.uint8(other), top.ids)
    return Painted(ids, {**rest.objects, **top.objects}, top.contested)
