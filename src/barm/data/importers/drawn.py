"""Upright masks of photographs that EXIF data turn: a mask was drawn on the stored image, or on the upright one.

Where only one of them has the size of what was annotated, that one is meant. Where both may be, it is asked.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
from PIL import Image

from barm.data.images import Probe, turned
from barm.data.importers.annotations import Ambiguous, DrawnOn, ImportOptions, Item, Painted, Preview, Size
from barm.data.importers.names import source_of
from barm.data.importers.undecided import answered
from barm.errors import UserError


def upright_mask(item: Item, facts: Probe, options: ImportOptions) -> tuple[Painted, bool]:
    """Paint an item's mask, upright; returns it with whether it was turned.

    Args:
        item: an annotated image.
        facts: of its image.
        options: `drawn_on` is what counts where sizes do not decide.

    Raises:
        UserError: if the mask fits the image in neither way.
        Ambiguous: if it fits in both ways, they differ, and nothing decides, or if it can be painted in several ways.
    """
    masks, drawn_on = _readings(answered(item, options), facts), options.drawn_on
    if drawn_on == "ask" and len(masks) > 1:
        what = (
            f"{source_of(item)} is turned by its EXIF data (orientation {facts.orientation}), and no size says whether "
            "its mask was drawn on the image as it is stored or as it is shown upright"
        )
        previews = dict[str, Preview]()
        for answer, mask in masks.items():
            previews[answer] = Preview(replace(item, paint=partial(_same, mask), size=None), ())
        raise Ambiguous(what, "--drawn-on", previews)
    chosen = drawn_on if drawn_on in masks else next(iter(masks))
    return masks[chosen], chosen == "stored"


def _readings(item: Item, facts: Probe) -> dict[DrawnOn, Painted]:
    """The upright mask by what it may have been drawn on; one where both are equal."""
    sizes = tuple(dict.fromkeys((facts.stored, facts.size)))
    if item.size is not None and item.size not in sizes:  # any number may stand there: nothing is painted in it
        raise UserError("{}x{} pixels were annotated, the image has {}x{}".format(*item.size, *facts.size))
    result, errors = dict[DrawnOn, Painted](), list[Exception]()
    for size in sizes if item.size is None else (item.size,):
        try:
            painted = item.paint(size)
        except ValueError as error:  # run lengths, say, are of one size
            errors.append(error)
            continue
        shape = painted.ids.shape[::-1]
        if shape not in sizes:
            raise UserError("the mask is {}x{}, the image {}x{}".format(*shape, *facts.size))
        if shape == facts.stored and facts.orientation != 1:
            mask = turned(Image.fromarray(painted.ids), facts.orientation)
            result["stored"] = painted._replace(ids=np.asarray(mask))
        if shape == facts.size:
            result["upright"] = painted
    if not result:
        raise errors[-1]
    if len(result) > 1 and np.array_equal(result["stored"].ids, result["upright"].ids):
        del result["stored"]
    return result


def _same(painted: Painted, _: Size) -> Painted:
    return painted
