"""Label Studio's run lengths of brush strokes.

Label Studio packs the four channels of an image the size of the annotated one into bits, most significant first:
32 bits for the number of values, 5 for the bits of a value less 1, four times 4 for the bits of a length less 1. Blocks
follow: a bit that is 1 for a repeated value and 0 for a row of values, 2 bits that choose one of the four sizes, a
length less 1 in so many bits, and the value or values. The stroke is in the fourth channel.
label-studio-sdk, ``converter/brush.py``, is the reference.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from barm.data.importers.annotations import Cover, Patch, Size
from barm.data.importers.regions import cropped

CHANNELS = 4
OPAQUE = 128  # alpha from which a pixel belongs to the stroke
SHORT = "its brush ends early"


@dataclass(frozen=True)
class _Packed:
    """A stream of bits and what its head says.

    Attributes:
        bits: one per byte.
        number: of values.
        word: bits of a value.
        lengths: bits of a length, by their place.
    """

    bits: bytes
    number: int
    word: int
    lengths: tuple[int, int, int, int]


def brush(rle: Sequence[int], size: Size) -> Cover:
    """The pixels of a brush stroke.

    Args:
        rle: bytes that `check_brush` accepts.
        size: ``(width, height)`` of the image that was annotated.
    """
    return partial(_stroke, bytes(rle), size)


def check_brush(rle: Any, size: Size) -> str | None:
    """Describe what is wrong with a brush's run lengths for an image of ``(width, height)``; None if nothing is."""
    if not isinstance(rle, list) or not all(type(byte) is int and 0 <= byte < 256 for byte in rle):
        return f"its brush is no list of bytes, but {str(rle)[:40]}"
    try:
        packed = _unpacked(bytes(rle))
        expected = CHANNELS * size[0] * size[1]
        if packed.number != expected:
            return f"its brush has {packed.number} values, but {size[0]}x{size[1]} pixels have {expected}"
        for _ in _blocks(packed):
            pass
    except ValueError as error:
        return str(error)
    return None


def _unpacked(content: bytes) -> _Packed:
    bits = np.unpackbits(np.frombuffer(content, np.uint8)).tobytes()
    if len(bits) < 53:
        raise ValueError(SHORT)
    word = _number(bits, 32, 5) + 1
    if word > 8:
        raise ValueError(f"its brush has values of {word} bits, expected 8")
    first, second, third, fourth = (_number(bits, 37 + 4 * i, 4) + 1 for i in range(4))
    return _Packed(bits, _number(bits, 0, 32), word, (first, second, third, fourth))


def _blocks(packed: _Packed) -> Iterator[tuple[int, int, int, bool]]:
    """The blocks: the first value's index, how many values, where their bits begin, whether one value is repeated."""
    done, place = 0, 53
    while done < packed.number:
        repeated = _number(packed.bits, place, 1) == 1
        bits = packed.lengths[_number(packed.bits, place + 1, 2)]
        length = _number(packed.bits, place + 3, bits) + 1
        place += 3 + bits
        if done + length > packed.number:
            raise ValueError("its brush holds more values than it says")
        yield done, length, place, repeated
        done += length
        place += packed.word * (1 if repeated else length)
        if place > len(packed.bits):
            raise ValueError(SHORT)


def _number(bits: bytes, place: int, length: int) -> int:
    if place + length > len(bits):
        raise ValueError(SHORT)
    value = 0
    for bit in bits[place : place + length]:
        value = value << 1 | bit
    return value


def _stroke(content: bytes, annotated: Size, size: Size) -> Patch:
    return cropped(_decoded(content, annotated, size))


def _decoded(content: bytes, annotated: Size, size: Size) -> NDArray[np.bool_]:
    """The stroke, ``(H, W)``."""
    if annotated != size:
        raise ValueError(f"its brush is of {annotated[0]}x{annotated[1]} pixels, not {size[0]}x{size[1]}")
    packed = _unpacked(content)
    values, weights = np.zeros(packed.number, np.uint8), 1 << np.arange(packed.word)[::-1]
    for start, length, place, repeated in _blocks(packed):
        number = 1 if repeated else length
        words = np.frombuffer(packed.bits, np.uint8, number * packed.word, place).reshape(number, packed.word)
        values[start : start + length] = words @ weights
    return values.reshape(size[1], size[0], CHANNELS)[..., CHANNELS - 1] >= OPAQUE
