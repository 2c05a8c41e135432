"""Masks of any depth: the numbers that come out are those that are in the file."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from barm.data.index import scan
from barm.data.masks import read_mask
from barm.data.palette import id_palette
from barm.data.sources.files import FileSource
from barm.errors import UserError


def png(values: np.ndarray, bits: int, colour: int = 0) -> bytes:
    """A single-channel PNG whose bits are put together here: Pillow writes no grey of 2 or 4 bits."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    rows = b""
    for row in values:
        digits = "".join(f"{int(v):0{bits}b}" for v in row)
        digits += "0" * (-len(digits) % 8)
        rows += b"\0" + int(digits, 2).to_bytes(len(digits) // 8, "big")
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], bits, colour, 0, 0, 0)
    palette = chunk(b"PLTE", bytes(range(3)) * 2 ** min(bits, 8)) if colour == 3 else b""
    data = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + palette + data + chunk(b"IEND", b"")


def all_values(bits: int) -> np.ndarray:
    """Every value of this depth, up to 255, in a map whose rows end within a byte."""
    return np.resize(np.arange(min(2**bits, 256)), (9, 35))


@pytest.mark.parametrize(("bits", "colour"), [(1, 0), (2, 0), (4, 0), (8, 0), (16, 0), (1, 3), (2, 3), (4, 3), (8, 3)])
def test_ids_are_read_as_they_stand(bits, colour, tmp_path):
    values = all_values(bits)
    (tmp_path / "mask.png").write_bytes(png(values, bits, colour))
    mask = read_mask(tmp_path / "mask.png")
    assert mask.mode == "L"
    assert np.array_equal(np.asarray(mask), values)


@pytest.mark.parametrize("kind", ["uint16", "int32"])
def test_deep_tiffs(kind, tmp_path):
    values = all_values(8)
    Image.fromarray(values.astype(kind)).save(tmp_path / "mask.tif")
    assert np.array_equal(np.asarray(read_mask(tmp_path / "mask.tif")), values)


def test_numbers_that_are_no_ids(tmp_path):
    values = all_values(8)
    values[3, 3] = 256
    (tmp_path / "mask.png").write_bytes(png(values, 16))
    with pytest.raises(UserError, match=r"mask.png: .* found 256 in a mask of 16 bits"):
        read_mask(tmp_path / "mask.png")
    Image.fromarray(np.full((4, 4), -1, np.int32)).save(tmp_path / "mask.tif")
    with pytest.raises(UserError, match="found -1"):
        read_mask(tmp_path / "mask.tif")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "F", "CMYK"])
def test_modes_that_are_no_ids(mode, tmp_path):
    Image.new(mode, (4, 4)).save(tmp_path / "mask.tif")
    with pytest.raises(UserError, match=f"found mode {mode}"):
        read_mask(tmp_path / "mask.tif")


def test_the_index_sees_the_same(tmp_path):
    """A mask of 4 bits whose ids Pillow would give as 17, 34, ...: the classes are 1 and 4."""
    values = np.zeros((16, 16), int)
    values[2:4], values[8] = 4, 1
    (tmp_path / "m.png").write_bytes(png(values, 4))
    Image.new("RGB", (16, 16)).save(tmp_path / "i.png")
    names = ("background", "a", "b", "c", "d")
    source = FileSource(tmp_path, "train", ("x",), (tmp_path / "i.png",), (tmp_path / "m.png",), names, id_palette())
    index = scan(source)
    assert index.problems == ()
    assert index.classes == (frozenset({1, 4}),)
    assert source.classes_in(0) == {1, 4}
    assert np.array_equal(np.asarray(source[0].mask), values)
