"""The one reader: what becomes of every kind of image, which docs/data.md has as a table made here."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from barm.app.viewer import Limits, Refused, read_upload
from barm.data import images
from barm.data.images import probe, read_image
from barm.errors import UserError
from barm.predict.model import as_image

DOCUMENT = Path(__file__).parents[2] / "docs/data.md"
SIZE = (20, 18)


class Case(NamedTuple):
    """A line of the table: what the file holds, its format, one stored value, and how to write it."""

    what: str
    suffix: str
    stored: str
    write: Callable[[Path], None]


def filled(mode: str, value, **options) -> Callable[[Path], None]:
    return lambda path: Image.new(mode, SIZE, value).save(path, **options)


def array(dtype, value, **options) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        Image.fromarray(np.full(SIZE[::-1], value, dtype)).save(path, **options)

    return write


def ramp16(path: Path) -> None:
    """16 bits of grey up to white, the first pixel 32896."""
    values = np.full(SIZE[::-1], 65535, np.uint16)
    values[0, 0] = 32896
    Image.fromarray(values).save(path)


def palette(transparent: bool) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        image = Image.new("P", SIZE, 1)
        image.putpalette([0, 0, 0, 200, 100, 50])
        image.save(path, **({"transparency": 1} if transparent else {}))

    return write


def deep_rgb(path: Path) -> None:
    """A PNG with 16 bits per channel, which Pillow does not write."""
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    row = b"\0" + struct.pack(">3H", 51400, 25700, 12850) * SIZE[0]
    header = struct.pack(">2I5B", *SIZE, 16, 2, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row * SIZE[1])) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + data)


def cmyk(adobe: bool) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        buffer = io.BytesIO()
        Image.new("CMYK", SIZE, (0, 128, 128, 0)).save(buffer, "JPEG", quality=100)
        content = buffer.getvalue()
        at = content.index(b"\xff\xee")
        length = struct.unpack(">H", content[at + 2 : at + 4])[0]
        assert content[at + 4 : at + 9] == b"Adobe"
        path.write_bytes(content if adobe else content[:at] + content[at + 2 + length :])

    return write


def tiff_orientation(path: Path) -> None:
    image = Image.new("RGB", SIZE[::-1], (200, 100, 50))
    info = TiffImagePlugin.ImageFileDirectory_v2()
    info[274] = 6
    image.save(path, tiffinfo=info)


def premultiplied(path: Path) -> None:
    """A TIFF whose colours are multiplied by their alpha, which Pillow does not write."""
    Image.new("RGBA", SIZE, (100, 50, 25, 128)).save(path)
    straight, associated = (struct.pack("<2HI2H", 338, 3, 1, kind, 0) for kind in (2, 1))
    content = path.read_bytes()
    assert content.count(straight) == 1
    path.write_bytes(content.replace(straight, associated))


def turned(path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", SIZE[::-1], (200, 100, 50)).save(path, exif=exif)


def several(path: Path) -> None:
    first, second = Image.new("RGB", SIZE, (200, 100, 50)), Image.new("RGB", SIZE)
    first.save(path, save_all=True, append_images=[second], lossless=True)


CASES = [
    Case("8-bit RGB", "png", "200, 100, 50", filled("RGB", (200, 100, 50))),
    Case("8-bit grey", "png", "200", filled("L", 200)),
    Case("1 bit", "png", "1", filled("1", 1)),
    Case("palette", "png", "index of 200, 100, 50", palette(False)),
    Case("palette, transparent", "png", "index of 200, 100, 50, transparent", palette(True)),
    Case("RGB with alpha, opaque", "png", "200, 100, 50, 255", filled("RGBA", (200, 100, 50, 255))),
    Case("RGB with alpha, transparent", "webp", "0, 0, 0, 0", filled("RGBA", (0, 0, 0, 0), lossless=True, exact=True)),
    Case("RGB with alpha, half transparent", "png", "200, 100, 50, 128", filled("RGBA", (200, 100, 50, 128))),
    Case("grey with alpha", "png", "200, 128", filled("LA", (200, 128))),
    Case("premultiplied alpha", "tif", "100, 50, 25, 128", premultiplied),
    Case("16-bit grey", "png", "32896", ramp16),
    Case("16-bit grey", "tif", "32896", ramp16),
    Case("16-bit grey", "pgm", "32896", ramp16),
    Case("16-bit grey with 12 bits in it", "png", "4095", array(np.uint16, 4095)),
    Case("16-bit RGB", "png", "51400, 25700, 12850", deep_rgb),
    Case("32-bit whole numbers", "tif", "32896", array(np.int32, 32896)),
    Case("floating-point numbers", "tif", "0.5", array(np.float32, 0.5)),
    Case("CMYK, by Adobe's mark inverted", "jpg", "ink 0, 128, 128, 0", cmyk(adobe=True)),
    Case("CMYK without that mark", "jpg", "ink 0, 128, 128, 0", cmyk(adobe=False)),
    Case("CMYK", "tif", "ink 0, 128, 128, 0", filled("CMYK", (0, 128, 128, 0))),
    Case("YCbCr", "tif", "128, 128, 128", filled("YCbCr", (128, 128, 128), compression="jpeg")),
    Case("CIELAB", "tif", "128, 0, 0", filled("LAB", (128, 0, 0))),
    Case("EXIF orientation", "png", "200, 100, 50, lying on its side", turned),
    Case("orientation", "tif", "200, 100, 50, lying on its side", tiff_orientation),
    Case("several frames", "webp", "200, 100, 50 in the first", several),
]
READ = {  # one stored value, and what has to become of it
    "1, png": (255, 255, 255),
    "200, png": (200, 200, 200),
    "32896, png": (128, 128, 128),
    "32896, tif": (128, 128, 128),
    "0, 0, 0, 0, webp": (255, 255, 255),
    "200, 100, 50, 128, png": (227, 177, 152),
    "index of 200, 100, 50, transparent, png": (255, 255, 255),
}


def row(case: Case, folder: Path) -> str:
    """The case's line of the table, from what the reader does."""
    path = folder / f"x.{case.suffix}"
    case.write(path)
    try:
        image = read_image(path)
    except UserError as error:
        with pytest.raises(UserError):
            probe(path)  # the check before training sees it, too
        told = "refused: " + str(error).removeprefix(f"{path} ")
        return f"| {case.what} | {case.suffix} | {case.stored} | {told} |"
    assert image.mode == "RGB"
    assert probe(path).size == image.size == SIZE
    pixel = image.getpixel((0, 0))
    want = READ.get(f"{case.stored}, {case.suffix}")
    assert want is None or np.abs(np.subtract(pixel, want)).max() <= 1, pixel
    said = [SAID[change] for change in probe(path).changes]
    return f"| {case.what} | {case.suffix} | {case.stored} | {', '.join(map(str, pixel))}{''.join(said)} |"


SAID = {"turned": "; turned upright", "white": "; laid on white", "deep": "; 65535 is white", "frames": "; the first"}
HEAD = ["| the file holds | as | stored | read as red, green, blue |", "|---|---|---|---|"]


def test_the_table_of_the_document(tmp_path):
    """Every line is what the reader does; the whole table stands in docs/data.md."""
    table = "\n".join([*HEAD, *(row(case, tmp_path) for case in CASES)])
    assert table in DOCUMENT.read_text("utf-8"), table


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.what}.{c.suffix}")
def test_a_line_of_the_table(case, tmp_path):
    assert row(case, tmp_path) in DOCUMENT.read_text("utf-8")


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_in_every_format(orientation, suffix, tmp_path):
    """The corner that is to be seen top left comes out top left, and the size is told without decoding."""
    upright = np.zeros((30, 40, 3), np.uint8)
    upright[:8, :8] = 255  # one corner bright, so that no two orientations look alike with the bar below
    upright[:8, 20:28] = (255, 0, 0)
    stored = np.asarray(Image.fromarray(upright))
    back = {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}[orientation]
    image = Image.fromarray(stored)
    turn = images._TURNS.get(back)
    image = image if turn is None else image.transpose(turn)
    path = tmp_path / f"x.{suffix}"
    if suffix == "tif":
        info = TiffImagePlugin.ImageFileDirectory_v2()
        info[274] = orientation
        image.save(path, tiffinfo=info)
    else:
        exif = Image.Exif()
        exif[274] = orientation
        image.save(path, exif=exif, **({"lossless": True} if suffix == "webp" else {"quality": 95}))
    found = probe(path)
    assert found.size == (40, 30)
    assert found.orientation == orientation
    assert found.stored == image.size
    assert ("turned" in found.changes) == (orientation != 1)
    assert np.abs(np.asarray(read_image(path)).astype(int) - upright).mean() < 3


def test_arrays_and_pillow_images_are_read_alike():
    """`Model.predict` gets what a file gives: 16 bits are scaled, numbers without a white are refused."""
    deep = Image.fromarray(np.full((20, 20), 32896, np.uint16))
    assert as_image(deep).getpixel((0, 0)) == (128, 128, 128)
    with pytest.raises(UserError, match="floating-point"):
        as_image(Image.new("F", (20, 20), 0.5))


def test_the_page_reads_alike(tmp_path):
    """What `barm serve` is sent goes through the same conversions; refusals are lines for the page."""
    for case in CASES:
        if case.suffix not in ("png", "jpg", "tif"):
            continue
        path = tmp_path / f"x.{case.suffix}"
        case.write(path)
        try:
            expected = np.asarray(read_image(path))
        except UserError:
            with pytest.raises(Refused):
                read_upload(path, Limits())
            continue
        assert np.array_equal(read_upload(path, Limits()).pixels, expected), case.what


def test_what_is_no_image(tmp_path):
    with pytest.raises(UserError, match=r"no image .*nowhere"):
        read_image(tmp_path / "nowhere.png")
    (tmp_path / "x.png").write_bytes(b"no image")
    with pytest.raises(UserError, match="cannot be read as an image") as error:
        probe(tmp_path / "x.png")
    assert "\n" not in str(error.value)
