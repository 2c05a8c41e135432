"""Explanations of mask values that are not the expected ids. They are only reported, never acted upon."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np
from PIL import Image

from barm.data.palette import id_palette
from barm.words import count

SHOWN = 8  # names or numbers in a sentence
LABELS = frozenset(range(1, 255))  # neither background nor ignored


def suggests(values: Collection[int], limit: int) -> str:
    """Explain values that are not, or not only, ids of classes, in a sentence.

    Args:
        values: found in any of the masks.
        limit: the highest id of a class.

    >>> suggests({0, 255}, 1)
    'they hold only 0 and 255, as a binary export does: 255 is ignored here, the class is 1'
    >>> suggests({0, 50, 100}, 2)
    'they are multiples of 50: divide by it, so that the classes are 1 to 2'
    >>> suggests({0, 300, 450}, 2)
    '300 and 450 are no class of classes.txt: the classes are 1 to 2, 0 is background, 255 is ignored'
    """
    labels = sorted(set(values) - {0, 255})
    expected = f"the classes are 1 to {limit}" if limit > 1 else "the class is 1"
    if not labels:
        found = listing(sorted(values))
        if 255 not in values:
            return f"they hold only {found}, which is background: nothing is labelled; {expected}"
        return f"they hold only {found}, as a binary export does: 255 is ignored here, {expected}"
    if labels[-1] <= limit:
        return f"they hold {listing(sorted(values))}; {expected}, 0 is background, 255 is ignored"
    highest = 255 if 255 in values else labels[-1]
    if limit > 1 and {*labels, highest} <= {round(255 * k / limit) for k in range(1, limit + 1)} | {
        255 * k // limit for k in range(1, limit + 1)
    }:
        return f"they are spread from 0 to 255 in {limit} steps, to be seen: make them ids again, {expected}"
    step = math.gcd(*labels)
    if step > 1 and labels[-1] <= step * limit:
        return f"they are multiples of {step}: divide by it, so that {expected}"
    if 0 not in values and labels[0] == 1 and labels[-1] == limit + 1:
        return f"0 is missing and {limit + 1} is there, so that they may be one too high: subtract 1 (255 stays)"
    unknown = [v for v in labels if v > limit]
    return (
        f"{listing(unknown)} {'are' if len(unknown) > 1 else 'is'} no class of classes.txt: {expected}, 0 is "
        "background, 255 is ignored"
    )


def absent(names: Sequence[str], images: Mapping[int, int]) -> str | None:
    """Name the classes that no image shows, and the likely reason, in a sentence; None if there are none.

    Args:
        names: of the classes, background first.
        images: number of images with each mask value.
    """
    limit = len(names) - 1
    missing = [i for i in range(1, limit + 1) if not images.get(i)]
    if not missing:
        return None
    present = {v for v, n in images.items() if n}
    labels = LABELS & present
    what = "class" if len(missing) == 1 else "classes"
    verb = "stands" if len(missing) == 1 else "stand"
    told = f"the {what} {listing([repr(names[i]) for i in missing])} {verb} in no image"
    if not labels:
        return f"{told}: {suggests(present, limit)}"
    if missing == [limit] and limit > 1 and 0 in present:
        ignored = " and 255" if 255 in present else ""
        return (
            f"{told}: the masks hold 0 to {limit - 1}{ignored}, so that '{names[1]}' may be 0 in them, as in "
            "Cityscapes' train ids; if it is, add 1 to all but 255, or name the background in line 1 of classes.txt"
        )
    if max(labels) < missing[0]:
        return f"{told}: the masks hold no id above {max(labels)}; has classes.txt more lines than there are ids?"
    return f"{told}: no mask holds the {'id' if len(missing) == 1 else 'ids'} {listing(missing)}"


def colours(mask: Image.Image) -> str:
    """Describe a mask in colour, as the end of a sentence."""
    pixels = np.asarray(mask.convert("RGB")).reshape(-1, 3)
    found = np.unique(pixels, axis=0)
    if (found == found[:, :1]).all():
        return f"its red, green and blue are equal ({listing(found[:, 0].tolist())}): save one channel alone"
    ids = {tuple(colour): i for i, colour in reversed(list(enumerate(id_palette().tolist())))}
    known = [ids.get(tuple(colour)) for colour in found.tolist()]
    if None not in known:
        return f"its colours are VOC's for the ids {listing(sorted(i for i in known if i is not None))}: save those ids"
    shown = listing([str(tuple(colour)).replace(" ", "") for colour in found.tolist()])
    return f"it has {count(len(found), 'colours')} ({shown}): give each its id"


def listing(things: Iterable[object]) -> str:
    """List numbers: ``1, 2 and 3``; of many the first ones and how many more.

    >>> listing([1]), listing([1, 2, 3]), listing(range(20))
    ('1', '1, 2 and 3', '0, 1, 2, 3, 4, 5, 6, 7 and 12 more')
    """
    words = [str(thing) for thing in things]
    if len(words) > SHOWN + 1:
        words = [*words[:SHOWN], f"{len(words) - SHOWN} more"]
    return " and ".join(part for part in (", ".join(words[:-1]), words[-1]) if part) if words else "nothing"
