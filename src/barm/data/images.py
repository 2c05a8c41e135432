"""The one reader of images: training, evaluation, prediction, checks and pages all see the same upright RGB.

docs/data.md has a table of what becomes of every kind of image; `tests/data/test_images.py` makes it.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Literal, NamedTuple, get_args

import numpy as np
from PIL import ExifTags, Image

from barm.errors import UserError

warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # twice as many pixels are refused

READER = 3  # grows when a file would be read differently, so that what was remembered of it is found out anew
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
Change = Literal["turned", "white", "deep", "frames"]
CHANGES: tuple[Change, ...] = get_args(Change)
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")  # none that starts another program
SMALLEST = 16  # pixels of a side that can be labelled
FULL = 2**16 - 1
DARK = 2**12  # 16-bit values all below this are 12 bits or fewer in 16: nearly black by the file format's own scale
STRIP = 2**20  # pixels that are converted at a time
SAVE_8 = "save it as 8-bit RGB or grey"
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = 5  # orientations from this on swap width and height


class Unreadable(UserError):
    """An image that cannot be used.

    Attributes:
        what: the defect, without the image's name.
        remedy: how to mend it.
    """

    def __init__(self, what: str, remedy: str, path: Path | None = None) -> None:
        super().__init__(f"{path or 'the image'} {what}: {remedy}")
        self.what, self.remedy = what, remedy


class Probe(NamedTuple):
    """Facts about an image that are known without its pixels.

    Attributes:
        size: upright ``(width, height)``.
        orientation: EXIF's, 1 where the file is upright.
        changes: names of the changes that reading it makes.
    """

    size: tuple[int, int]
    orientation: int
    changes: tuple[Change, ...]

    @property
    def stored(self) -> tuple[int, int]:
        """``(width, height)`` as the file has it."""
        return self.size[::-1] if self.orientation >= SIDEWAYS else self.size


def open_image(file: Path | str | IO[bytes]) -> Image.Image:
    """Open an image of one of `FORMATS`, whatever its name is: Pillow would hand PostScript to another program.

    Args:
        file: its path, or the file, opened for reading.

    Raises:
        UnidentifiedImageError: if it is of none of them.
        DecompressionBombError: if it has more than twice `Image.MAX_IMAGE_PIXELS`, about 179 million pixels; of half as
            many Pillow would warn.
    """
    Image.init()
    return Image.open(file, formats=[name for name in FORMATS if name in Image.OPEN])


def read_image(path: Path | str) -> Image.Image:
    """Read an image as 8-bit RGB, turned upright as its EXIF data say.

    Raises:
        UserError: if there is no such file, it is no image, or nothing says how its values become 8-bit RGB.
    """
    with _opened(Path(path)) as image:
        return to_rgb(upright(image)[0], image.format)[0]


def probe_image(path: Path | str) -> tuple[int, int]:
    """Upright width and height of an image. Its file is read to the end, a JPEG at an eighth of its size.

    Raises:
        UserError: as `read_image`.
    """
    return probe(path).size


def probe(path: Path | str) -> Probe:
    """Check an image for everything that `read_image` would refuse.

    Raises:
        UserError: as `read_image`.
    """
    with _opened(Path(path)) as image:
        size, several = image.size, image.format != "MPO" and getattr(image, "n_frames", 1) > 1
        quick = image.format in ("JPEG", "MPO") and image.mode in ("RGB", "L")
        if quick:
            image.draft(image.mode, (1, 1))
        left, orientation = _loaded(image)
        if not quick:
            size = image.size  # a TIFF is upright by now
        if left >= SIDEWAYS:
            size = size[::-1]
        converted = () if quick else changes_of(image)
        turn: tuple[Change, ...] = ("turned",) if orientation != 1 else ()
        frames: tuple[Change, ...] = ("frames",) if several else ()  # but for MPO: a camera's image comes first
        return Probe(size, orientation, (*turn, *converted, *frames))


def upright(image: Image.Image) -> tuple[Image.Image, int]:
    """Turn an image upright as its EXIF data say; returns it with the orientation that they had (1: upright)."""
    left, orientation = _loaded(image)
    turn = _TURNS.get(left)
    return (image if turn is None else image.transpose(turn)), orientation


def _loaded(image: Image.Image) -> tuple[int, int]:
    """Load an image; returns the orientation that it has now, and the one that its EXIF data had."""
    tags = getattr(image, "tag_v2", None)  # Pillow turns a TIFF by itself when it loads it, and forgets how
    orientation = int(tags.get(ExifTags.Base.Orientation, 1)) if tags is not None else 1
    image.load()
    left = int(image.getexif().get(ExifTags.Base.Orientation, 1))
    if tags is None:
        orientation = left
    return left, (orientation if orientation in _TURNS else 1)


def turned(mask: Image.Image, orientation: int) -> Image.Image:
    """Turn a mask that was drawn over the stored image as EXIF's `orientation` turns the image."""
    turn = _TURNS.get(orientation)
    return mask if turn is None else mask.transpose(turn)


def check_size(size: tuple[int, int], what: str) -> None:
    """Refuse an image of this ``(width, height)`` that is too small."""
    if min(size) < SMALLEST:
        raise UserError(f"{what} is {size[0]}x{size[1]}: expected at least {SMALLEST} pixels on each side")


def to_rgb(image: Image.Image, kind: str | None = None) -> tuple[Image.Image, tuple[Change, ...]]:
    """Convert an image of any mode to 8-bit RGB; returns it with what that changed.

    Transparent parts become `white`, `deep` grey is scaled.

    16 bits are scaled from their full range, as PNG, TIFF and PGM define it. Nothing is guessed: what has no defined
    white is refused. Besides the image and the result there are no copies, as a large one has gigabytes.

    Args:
        image: the image.
        kind: its file's format as Pillow calls it; by default the image says it.

    Raises:
        Unreadable: for 32-bit numbers, for 16-bit values that would all be nearly black, for a CMYK JPEG that does not
            say which way round it is, and for other colour spaces.
    """
    changes = changes_of(image, kind)
    if "deep" in changes:
        return _from_16_bits(image).convert("RGB"), changes
    if not _may_be_transparent(image):
        return image.convert("RGB"), changes
    result = Image.new("RGB", image.size)
    for top, strip in strips(image):
        layer = _layer(strip)
        if "white" in changes:
            layer = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
        result.paste(layer.convert("RGB"), (0, top))
    return result, changes


def changes_of(image: Image.Image, kind: str | None = None) -> tuple[Change, ...]:
    """What `to_rgb` changes in an image, without a copy of it.

    Raises:
        Unreadable: as `to_rgb`.
    """
    mode, kind = image.mode, kind or image.format
    if mode.startswith("I;16") or (mode == "I" and kind in ("PNG", "PPM")):
        highest = int(np.asarray(image).max())
        if 0 < highest < DARK:
            raise Unreadable(
                f"has 16 bits per pixel and no value above {highest} of {FULL}, so that it would be nearly black",
                f"scale it to the full range, or {SAVE_8}",
            )
        return ("deep",)
    if mode.startswith("I"):
        raise Unreadable("holds 32-bit whole numbers, and nothing says which of them is white", SAVE_8)
    if mode == "F":
        raise Unreadable("holds floating-point numbers, and nothing says which of them is white", SAVE_8)
    if mode == "CMYK" and kind == "JPEG" and "adobe" not in image.info:
        raise Unreadable("is a CMYK JPEG without Adobe's mark, so that ink and white may be swapped", SAVE_8)
    if _may_be_transparent(image):
        opaque = all(_layer(strip).getchannel("A").getextrema() == (255, 255) for _, strip in strips(image))
        return () if opaque else ("white",)
    if mode not in ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV"):
        raise Unreadable(f"has the colour mode {mode}, of which no way to RGB is known", SAVE_8)
    return ()


def strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """The rows of an image, some at a time: the first one's number, and copies of them."""
    for rows in some_rows(image.height, image.width):
        yield rows.start, image.crop((0, rows.start, image.width, rows.stop))


def some_rows(height: int, width: int) -> Iterator[slice]:
    """The rows of an array of this size, so many at a time that a copy of them is small.

    >>> list(some_rows(3, 2**20))
    [slice(0, 1, None), slice(1, 2, None), slice(2, 3, None)]
    """
    step = max(1, STRIP // max(1, width))
    for top in range(0, height, step):
        yield slice(top, min(height, top + step))


def _may_be_transparent(image: Image.Image) -> bool:
    return image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info


def _layer(image: Image.Image) -> Image.Image:
    """An image with its transparency, as RGBA."""
    return image.convert({"La": "LA"}.get(image.mode, "RGBA")).convert("RGBA")


def _from_16_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    result = np.empty(values.shape, np.uint8)
    for rows in some_rows(*values.shape):
        result[rows] = (values[rows].astype(np.int64) * 255 + FULL // 2) // FULL
    return Image.fromarray(result)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open an image file and turn any error into one line."""
    if not path.is_file():
        raise UserError(f"no image {path}: give existing image files")
    try:
        with open_image(path) as image:
            yield image
    except Unreadable as error:
        raise Unreadable(error.what, error.remedy, path) from None
    except UserError:
        raise
    except Exception as error:  # a damaged file makes decoders fail in any way
        short = " ".join(str(error).split())[:80] or type(error).__name__
        raise Unreadable(f"cannot be read as an image ({short})", "give JPEG, PNG or the like", path) from error
