"""The one reader of masks: it returns the ids that are written in the file, whatever the file's bit depth."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from barm.data.class_values import ClassValues
from barm.data.images import open_image, strips
from barm.errors import UserError
from barm.reading import Unfit

ID_MODES = ("P", "L", "1")
DEEP_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N")
CONVERT = "convert it to ids"
SPREAD = {"L;2": 85, "L;4": 17}  # what Pillow multiplies grey values of so few bits by, to fill 0..255


def read_mask(path: Path | IO[bytes], values: ClassValues | None = None) -> Image.Image:
    """Read a mask as ids: the palette index or grey value itself, mode ``L``.

    Grey values of 2 and 4 bits are not scaled, and 16 bits are taken where all values fit into 8.

    Args:
        path: of the file, or the file, opened for reading.
        values: what the mask's values or colours mean, where they are not the ids themselves.

    Raises:
        Unfit: for a mask that is not single-channel (but in colour, if `values` are colours), or holds numbers above
            255, or that `values` do not list.
        OSError: if it cannot be read; decoders raise SyntaxError, ValueError and Pillow's DecompressionBombError, too.
    """
    with open_image(path) as mask:
        if values is not None and values.colours:
            return Image.fromarray(values.to_ids(rgb_of(mask, _name(path)), _name(path)))
        stored = stored_values(mask, _name(path))
    if values is not None:
        return Image.fromarray(values.to_ids(stored, _name(path)))
    if mask.mode in DEEP_MODES:
        low, high = int(stored.min()), int(stored.max())
        if low < 0 or high > 255:
            found, bits = (low if low < 0 else high), 8 * stored.dtype.itemsize
            what = f"a mask holds one class id per pixel, 0 to 255, found {found} in a mask of {bits} bits"
            raise Unfit(_name(path), what, CONVERT)
    return Image.fromarray(stored.astype(np.uint8))


def stored_values(mask: Image.Image, path: Path) -> NDArray[np.integer]:
    """The numbers that stand in a mask's file, ``(H, W)``: palette indices or grey values of any depth.

    Raises:
        Unfit: for a mask that is not single-channel.
    """
    if mask.mode not in (*ID_MODES, *DEEP_MODES):
        what = f"a mask holds one class id per pixel (palette or grey PNG), found mode {mask.mode}"
        raise Unfit(path, what, CONVERT)
    spread = SPREAD.get(_raw_mode(mask), 1)
    mask.load()
    stored: NDArray[np.integer] = np.asarray(mask)
    if stored.dtype == bool:
        return stored.astype(np.uint8)
    return stored if spread == 1 else stored // stored.dtype.type(spread)


def rgb_of(mask: Image.Image, path: Path) -> NDArray[np.uint8]:
    """The colours of a mask, ``(H, W, 3)``.

    Raises:
        Unfit: for a mask whose colours are not defined, or that is partly transparent.
    """
    if mask.mode not in ("P", "RGB", "RGBA", "RGBX", "L", "1"):
        raise Unfit(path, f"a mask in colour is RGB or has a palette, found mode {mask.mode}", "save it as 8-bit RGB")
    if mask.mode == "RGBA" and any(mask.getchannel("A").histogram()[1:255]):
        raise Unfit(path, "is half transparent, so that its colours are mixtures", "save it as 8-bit RGB")
    colours = np.empty((mask.height, mask.width, 3), np.uint8)
    for top, strip in strips(mask):
        colours[top : top + strip.height] = np.asarray(strip.convert("RGB"))
    return colours


def check_mask_size(file: Path | bytes, size: tuple[int, int]) -> None:
    """Refuse a mask that fits an image of ``(width, height)`` in no way, before it is decoded.

    Raises:
        UserError: if it is larger or smaller, turned as well.
        OSError: as `read_mask`.
    """
    with open_image(BytesIO(file) if isinstance(file, bytes) else file) as mask:
        if mask.size not in (size, size[::-1]):
            raise UserError("the mask is {}x{}, the image {}x{}".format(*mask.size, *size))


def foreground(mask: Image.Image) -> frozenset[int]:
    """Ids in a mask other than 0 and 255."""
    histogram = mask.histogram()
    return frozenset(i for i in range(1, 255) if histogram[i])


def _raw_mode(image: Image.Image) -> str:
    """The raw mode of the file's values for Pillow's decoder, before loading."""
    tiles: list[Any] = getattr(image, "tile", [])
    arguments = tiles[0][3] if tiles else ""
    return str(arguments[0]) if isinstance(arguments, tuple) and arguments else str(arguments)


def _name(path: Path | IO[bytes]) -> Path:
    return Path(path) if isinstance(path, Path | str) else Path("the mask")
