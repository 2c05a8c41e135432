"""Pictures that a stranger may have sent: limits first, then decoding into 8-bit RGB, and what was changed is said."""

from __future__ import annotations

import hashlib
import math
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from barm.errors import UserError

Pixels = NDArray[np.uint8]
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")  # none that starts another program
SMALLEST = 16
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
        remarks.append(f"Only the first of its {getattr(image, 'n_frames', 0)} frames is looked at.")
        image.seek(0)
    upright = ImageOps.exif_transpose(image)
    rgb, remark = to_rgb(upright)
    small = _shrunk(rgb, limits.shrink_to)
    remarks += [remark] if remark else []
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


def to_rgb(image: Image.Image) -> tuple[Image.Image, str]:
    """8-bit RGB of a picture of any mode, and what was lost on the way (an empty string if nothing).

    Transparent parts are laid on white; deeper grey is scaled to 8 bits instead of being cut off at 255.
    """
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        return Image.fromarray(_eight_bits(np.asarray(image))).convert("RGB"), "Its deep grey was scaled to 8 bits."
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        layer = image.convert("RGBA")
        lowest, _ = layer.getchannel("A").getextrema()
        below = Image.new("RGBA", layer.size, "white")
        remark = "Its transparent parts were laid on white." if lowest != 255 else ""
        return Image.alpha_composite(below, layer).convert("RGB"), remark
    return image.convert("RGB"), ""


def _eight_bits(values: NDArray[np.generic]) -> Pixels:
    """16-bit integers by their full range, 0..1 floats by theirs, anything else from its least to its largest value."""
    numbers = np.nan_to_num(values.astype(np.float64), posinf=0.0, neginf=0.0)
    low, high = float(numbers.min()), float(numbers.max())
    if values.dtype.kind in "iu" and low >= 0 and high < 2**16:
        low, high = 0.0, 255.0 if high < 2**8 else 2.0**16 - 1
    elif values.dtype.kind == "f" and low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    return np.asarray(np.rint((numbers - low) * (255 / max(high - low, 1e-12))), np.uint8)


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
