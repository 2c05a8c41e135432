"""The classes that an import keeps, and masks in which the others hide none of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from barm.data.importers.annotations import ImportOptions, Item, Painted, Size
from barm.data.importers.undecided import answered
from barm.errors import UserError
from barm.labels import IGNORE

Layers = Sequence[tuple[Any, ...]]  # objects of an image in their order; each begins with its id


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
        item: whose `paint` is a `functools.partial` with the `Layers` as its first argument, if it has any.
        kept: the importer's ids of classes.
        options: choices.
    """
    paint = item.paint
    if not (isinstance(paint, partial) and paint.args and _are_layers(paint.args[0])):
        return item
    layers, *more = paint.args
    above = [layer for layer in layers if layer[0] in (0, IGNORE, *kept)]
    below = [layer for layer in layers if layer[0] not in (IGNORE, *kept)]
    others = [layer[0] for layer in below if layer[0]]
    if not others or not any(layer[0] for layer in above):
        return item
    top = replace(item, paint=partial(paint.func, above, *more, **paint.keywords))
    if options.rest == "background":  # nobody sees the others
        return top
    rest = replace(item, paint=partial(paint.func, below, *more, **paint.keywords))
    return replace(item, paint=partial(_over, answered(top, options).paint, answered(rest, options).paint, others[0]))


def _over(above: Callable[[Size], Painted], below: Callable[[Size], Painted], other: int, size: Size) -> Painted:
    """One mask, and where it is background the pixels of another one, as those of the class `other`."""
    top, rest = above(size), below(size)
    ids = np.where((top.ids == 0) & (rest.ids > 0), np.uint8(other), top.ids)
    return Painted(ids, {**rest.objects, **top.objects}, top.contested)


def _are_layers(value: object) -> bool:
    return isinstance(value, list | tuple) and all(
        isinstance(each, tuple) and each and type(each[0]) is int for each in value
    )
