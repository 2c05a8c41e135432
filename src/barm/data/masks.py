"""The one reader of masks: whatever the file's depth, what comes out are the ids that are written in it."""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image

from barm.errors import UserError

ID_MODES = ("P", "L", "1")
DEEP_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N")
SPREAD = {"L;2": 85, "L;4": 17}  # what Pillow multiplies grey values of so few bits by, to fill 0..255


def read_mask(path: Path | IO[bytes]) -> Image.Image:
    """A mask as ids: the palette index or grey value itself, mode ``L``.

    Grey values of 2 and 4 bits are not scaled, and 16 bits are taken where all values fit into 8.

    Args:
        path: of the file, or the file, opened for reading.

    Raises:
        UserError: for a mask that is not single-channel, or holds numbers above 255.
        OSError: if it cannot be read; decoders raise SyntaxError, ValueError and Pillow's DecompressionBombError, too.
    """
    with Image.open(path) as mask:
        if mask.mode not in (*ID_MODES, *DEEP_MODES):
            told = f"{_name(path)}: a mask holds one class id per pixel (palette or 8-bit grey PNG)"
            raise UserError(f"{told}, found mode {mask.mode}")
        spread = SPREAD.get(_raw_mode(mask), 1)
        mask.load()
        values = np.asarray(mask)
    if mask.mode in DEEP_MODES:
        low, high = int(values.min()), int(values.max())
        if low < 0 or high > 255:
            raise UserError(
                f"{_name(path)}: a mask holds one class id per pixel, 0 to 255, found {low if low < 0 else high} in a "
                f"mask of {8 * values.dtype.itemsize} bits"
            )
    return Image.fromarray(values.astype(np.uint8) // np.uint8(spread))


def foreground(mask: Image.Image) -> frozenset[int]:
    """Ids in a mask other than 0 and 255."""
    histogram = mask.histogram()
    return frozenset(i for i in range(1, 255) if histogram[i])


def _raw_mode(image: Image.Image) -> str:
    """How the values lie in the file, as Pillow's decoder is told; before loading."""
    tiles: list[Any] = getattr(image, "tile", [])
    arguments = tiles[0][3] if tiles else ""
    return str(arguments[0]) if isinstance(arguments, tuple) and arguments else str(arguments)


def _name(path: Path | IO[bytes]) -> str:
    return str(path) if isinstance(path, Path | str) else "the mask"
