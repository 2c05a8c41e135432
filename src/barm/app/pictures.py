"""Pictures that a stranger may have sent: limits first, then decoding into 8-bit RGB, and what was changed is said."""

from __future__ import annotations

import hashlib
import math
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from barm.data.images import Unreadable, to_rgb, upright
from barm.errors import UserError
from barm.words import count

Pixels = NDArray[np.uint8]
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")  # none that starts another program
SMALLEST = 16
REMARKS = {"white": "Its transparent parts were laid on white.", "deep": "Its deep grey was scaled to 8 bits."}
BOMB = 178_000_000  # Pillow refuses a little more than this by itself


class Refused(UserError):
    """A picture that is not taken; the message is for the page and names no file of this machine."""


@dataclass(frozen=True)
class Limits:
    """What is taken.

    Attributes:
        megabytes: of the file, in 2**20 bytes.
        pixels: of the picture as stored; more is refused before anything is decoded.
        shrink_to: pixels that the network is given; larger pictures are scaled down, and the page says so.
    """

    megabytes: float = 20
    pixels: int = 20_000_000
    shrink_to: int = 1_000_000


@dataclass(frozen=True)
class Picture:
    """What the network is given.

    Attributes:
        pixels: ``(H, W, 3)`` uint8.
        key: equal for equal pixels.
        remarks: sentences on what was done to the file's picture.
    """

    pixels: Pixels
    key: str
    remarks: tuple[str, ...] = ()

    @property
    def image(self) -> Image.Image:
        """As a PIL picture."""
        return Image.fromarray(self.pixels)


def read_upload(path: Path, limits: Limits) -> Picture:
    """Read a file of unknown origin.

    Args:
        path: the file; its content decides the format, not its name.
        limits: what is taken.

    Raises:
        Refused: if it is too large, too small, damaged, or none of `FORMATS`.
    """
    size = path.stat().st_size
    if size > limits.megabytes * 2**20:
        raise Refused(
            f"This file has {size / 2**20:.1f} MB; at most {limits.megabytes:g} MB are taken. Save it smaller, or "
            "start `barm serve` with a larger --max-upload-mb."
        )
    Image.init()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit on pixels is ours
        try:
            with Image.open(path, formats=[f for f in FORMATS if f in Image.OPEN]) as image:
                _check_pixels(image.size, limits)
                return prepare(image, limits)
        except Refused:
            raise
        except Image.DecompressionBombError:
            raise _too_large("more than 178,000,000", limits) from None
        except Exception:  # a damaged file makes decoders fail in any way
            raise Refused(
                "This file cannot be read as a picture: it is damaged or of another kind. Give a JPEG, PNG, WebP, GIF, "
                "BMP or TIFF file."
            ) from None


def prepare(image: Image.Image, limits: Limits) -> Picture:
    """Upright 8-bit RGB of at most ``limits.shrink_to`` pixels, with remarks on what that took."""
    remarks = []
    if getattr(image, "is_animated", False):
        remarks.append(f"Only the first of its {count(getattr(image, 'n_frames', 0), 'frames')} is looked at.")
        image.seek(0)
    try:
        rgb, changes = to_rgb(upright(image)[0], image.format)
    except Unreadable as error:
        raise Refused(f"This picture {error.what}: {error.remedy}.") from None
    small = _shrunk(rgb, limits.shrink_to)
    remarks += [REMARKS[change] for change in changes if change in REMARKS]
    if small.size != rgb.size:
        remarks.append(
            f"Scaled from {rgb.width} x {rgb.height} to {small.width} x {small.height} pixels for the network."
        )
    if min(small.size) < SMALLEST:
        scaled = f", scaled {small.width} x {small.height}" if small.size != rgb.size else ""
        raise Refused(
            f"This picture has {rgb.width} x {rgb.height} pixels{scaled}; expected at least {SMALLEST} on each side."
        )
    pixels = np.asarray(small)
    return Picture(pixels, hashlib.sha256(str(pixels.shape).encode() + pixels.tobytes()).hexdigest(), tuple(remarks))


def _check_pixels(size: tuple[int, int], limits: Limits) -> None:
    if size[0] * size[1] > limits.pixels:
        raise _too_large(f"{size[0]} x {size[1]} = {size[0] * size[1]:,}", limits)


def _too_large(found: str, limits: Limits) -> Refused:
    return Refused(
        f"This picture has {found} pixels; at most {limits.pixels:,} are taken. Scale it down, or start "
        "`barm serve` with a larger --max-pixels."
    )


def _shrunk(image: Image.Image, pixels: int) -> Image.Image:
    factor = math.sqrt(pixels / (image.width * image.height))
    if factor >= 1:
        return image
    size = max(1, int(image.width * factor)), max(1, int(image.height * factor))
    return image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
