"""The values and colours that stand in masks, counted, before anything is decided about them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from barm.data.at_once import room_for
from barm.data.class_values import ClassValues, packed
from barm.data.images import open_image, some_rows
from barm.data.importers.annotations import Painted, Size
from barm.data.index import cores
from barm.data.mask_values import listing
from barm.data.masks import check_mask_size, read_mask, rgb_of, stored_values
from barm.data.progress import progress_bar
from barm.errors import UserError
from barm.reading import Unfit
from barm.words import count, verb

UNREADABLE = "masks that cannot be read"
BLACK, WHITE = 0, 0xFFFFFF
JPEG = (".jpg", ".jpeg")
MOST_VALUES = 2**16  # or colours, in a mask


@dataclass(frozen=True)
class Facts:
    """What a mask holds.

    Attributes:
        counts: number of pixels by value, or by colour as 0xrrggbb.
        colour: whether the mask is in colour.
        palette: colour by index, of the indices that occur; empty for masks without a palette.
    """

    counts: Mapping[int, int]
    colour: bool = False
    palette: Mapping[int, int] = field(default_factory=dict[int, int])

    @property
    def grey(self) -> bool:
        """Whether its colours are greys alone."""
        return self.colour and all(c >> 16 == c >> 8 & 255 == c & 255 for c in self.counts)

    @property
    def binary(self) -> bool:
        """Whether it holds two values alone, as the mask of one class does."""
        values = set(self.counts)
        if self.palette:
            return values <= {0, 1} and self.palette.get(0, BLACK) == BLACK
        return values <= {BLACK, WHITE} if self.colour else values <= {0, 1} or values <= {0, 255}


def facts_of(path: Path) -> Facts:
    """Count the values or colours of a mask.

    Raises:
        Unfit: for a mask of another mode.
        OSError: if it cannot be read; decoders raise SyntaxError, ValueError and Pillow's DecompressionBombError, too.
    """
    with open_image(path) as mask:
        if mask.mode in ("RGB", "RGBA", "RGBX"):
            return _colour_facts(mask, path)
        counts = _counted(stored_values(mask, path), path)
        if mask.mode != "P":
            return Facts(counts)
        palette = np.zeros((256, 3), np.uint8)
        flat = mask.getpalette("RGB") or []
        palette[: len(flat) // 3] = np.array(flat, np.uint8).reshape(-1, 3)
        return Facts(counts, palette={i: int(packed(palette[i])) for i in counts})


def try_facts(path: Path) -> Facts | None:
    """As `facts_of`; None for a mask that cannot be read."""
    try:
        with room_for(path):
            return facts_of(path)
    except (UserError, OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None


def scan(paths: Sequence[Path]) -> dict[Path, Facts]:
    """The facts of all masks that can be read."""
    with progress_bar(len(paths)) as bar, ThreadPoolExecutor(cores()) as pool:
        found = bar.track(pool.map(try_facts, paths), total=len(paths), description="reading masks")
        return {path: facts for path, facts in zip(paths, found, strict=True) if facts is not None}


def in_colour(facts: Mapping[Path, Facts]) -> dict[Path, Facts]:
    """The same masks by their colours, those with a palette or in grey, too."""
    return {path: each if each.colour else _reread(path, each) for path, each in facts.items()}


def in_numbers(facts: Mapping[Path, Facts]) -> dict[Path, Facts]:
    """The same masks by their numbers, those with equal red, green and blue, too."""
    return {
        path: Facts({colour & 255: number for colour, number in each.counts.items()}) if each.grey else each
        for path, each in facts.items()
    }


def check_listed(facts: Mapping[Path, Facts], values: ClassValues) -> None:
    """Refuse masks with values or colours that a table does not list.

    Raises:
        UserError: with the number of their pixels.
    """
    if values.other is not None:
        return
    known, strange, first = dict(values.ids), Counter[int](), list[Path]()
    for path, each in facts.items():
        unlisted = {value: number for value, number in each.counts.items() if value not in known}
        strange.update(unlisted)
        first += [path] if unlisted else []
    if not strange:
        return
    what = "colours" if values.colours else "values"
    shown = listing([values.written(value) for value, _ in strange.most_common()])
    lines = f"add a line for {'it' if len(strange) == 1 else 'each'}"
    if values.colours and any(path.suffix.lower() in JPEG for path in first):
        lines = "JPEG changes colours, save masks as PNG"
    elif values.colours:
        lines += ", or save the masks without smoothed edges if these are mixtures of two classes' colours"
    number = sum(strange.values())
    raise UserError(
        f"{first[0]}: {count(number, 'pixels')} in {count(len(first), 'masks')} {verb(number, 'have')} "
        f"{count(len(strange), what)} that {values.path} does not list ({shown}): {lines}"
    )


def total(facts: Iterable[Facts]) -> Counter[int]:
    """Number of pixels by value or colour in several masks."""
    result = Counter[int]()
    for each in facts:
        result.update(each.counts)
    return result


def painter(path: Path, values: ClassValues) -> partial[Painted]:
    """Paint a mask by a table of values or colours, as `Item.paint` wants it."""
    return partial(_paint, path, values)


def blank(size: Size) -> Painted:
    """The mask of an image that shows background alone."""
    return Painted(np.zeros(size[::-1], np.uint8))


def read_grey(path: Path) -> NDArray[np.integer]:
    """The values of a mask with one channel, or with equal red, green and blue, ``(H, W)``.

    Raises:
        Unfit: for a mask in colour.
    """
    with open_image(path) as mask:
        if mask.mode not in ("RGB", "RGBA", "RGBX"):
            return stored_values(mask, path)
        colours = rgb_of(mask, path)
    if (colours != colours[..., :1]).any():
        raise Unfit(path, "is in colour, other masks hold one number per pixel", "keep masks of one kind")
    return colours[..., 0]


def _paint(path: Path, values: ClassValues, size: Size) -> Painted:
    check_mask_size(path, size)
    if values.colours:
        return Painted(np.asarray(read_mask(path, values)))
    return Painted(values.to_ids(read_grey(path), path))


def _reread(path: Path, facts: Facts) -> Facts:
    if facts.palette:
        counts = Counter[int]()
        for index, number in facts.counts.items():
            counts[facts.palette[index]] += number
        return Facts(counts, colour=True)
    with open_image(path) as mask:
        return _colour_facts(mask, path)


def _colour_facts(mask: Image.Image, path: Path) -> Facts:
    colours, result = rgb_of(mask, path), Counter[int]()
    for rows in some_rows(mask.height, mask.width):
        found: Any = Image.fromarray(colours[rows]).getcolors(MOST_VALUES)
        for number, (red, green, blue) in found or ():
            result[red << 16 | green << 8 | blue] += number
        _check_number(MOST_VALUES + 1 if found is None else len(result), path)
    return Facts(dict(result), colour=True)


def _counted(values: NDArray[np.integer], path: Path) -> dict[int, int]:
    result = Counter[int]()
    for rows in some_rows(*values.shape):
        if values.dtype == np.uint8:
            counts = np.bincount(values[rows].ravel(), minlength=256)
            found = np.flatnonzero(counts)
            counts = counts[found]
        else:
            found, counts = np.unique(values[rows], return_counts=True)
        result.update(dict(zip(found.tolist(), counts.tolist(), strict=True)))
        _check_number(len(result), path)
    return dict(result)


def _check_number(number: int, path: Path) -> None:
    if number > MOST_VALUES:
        raise Unfit(path, f"holds more than {MOST_VALUES} values, as a photograph does", "keep masks alone there")
