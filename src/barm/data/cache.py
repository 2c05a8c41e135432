"""Decoded pictures in one memory-mapped file: a small data set is decoded once, not in every epoch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from barm.data.base import Sample
from barm.data.files import FileSource
from barm.data.index import cache_folder, cores

AHEAD = 64  # pictures decoded at a time while the file is written


class DecodedSource:
    """A source whose first pictures, as many as a limit allows, lie decoded in one file.

    The file is found again by what it was made of: names, sizes and times of pictures, masks and maps.

    Args:
        source: with its index.
        limit: bytes that the file may have.

    Raises:
        OSError: if the file cannot be written; nothing half-written stays.
    """

    def __init__(self, source: FileSource, limit: int) -> None:
        self.source, self.limit = source, limit
        path = cache_folder() / f"decoded-{self._key()}.bin"
        about = path.with_suffix(".json")
        if not about.is_file() or not path.is_file():
            _write(source, limit, path, about)
        self.places: list[list[int]] = json.loads(about.read_text("utf-8"))
        self.pixels: NDArray[np.uint8] = np.memmap(path, np.uint8, mode="r") if self.places else np.empty(0, np.uint8)

    def _key(self) -> str:
        source = self.source
        digest = blake2b(f"{source.root.resolve()}:{source.split}:{self.limit}".encode(), digest_size=12)
        for path in (*source.images, *source.masks, *source.saliency):
            stat = path.stat()
            digest.update(f"{path.name}:{stat.st_size}:{stat.st_mtime_ns};".encode())
        return digest.hexdigest()

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names by dataset id, background first."""
        return self.source.class_names

    @property
    def palette(self) -> NDArray[np.uint8]:
        """Colour per id, ``(256, 3)`` uint8."""
        return self.source.palette

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """``(width, height)`` of every picture."""
        return self.source.sizes

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, i: int) -> Sample:
        if i >= len(self.places):
            return self.source[i]
        start, width, height = self.places[i]
        area = width * height
        image = self.pixels[start : start + 3 * area].reshape(height, width, 3)
        maps = [
            self.pixels[start + k * area : start + (k + 1) * area].reshape(height, width)
            for k in range(3, 5 if self.source.saliency else 4)
        ]
        mask, *extras = (Image.fromarray(m) for m in maps)
        return Sample(Image.fromarray(image), mask, dict(zip(("saliency",), extras, strict=False)))

    def name(self, i: int) -> str:
        """The picture's name."""
        return self.source.name(i)

    def classes_in(self, i: int) -> frozenset[int]:
        """Foreground ids in the mask."""
        return self.source.classes_in(i)


def _write(source: FileSource, limit: int, path: Path, about: Path) -> None:
    """Decode pictures until the limit is reached, into a file beside, and rename it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside, places, at = path.with_suffix(".tmp"), list[list[int]](), 0
    try:
        with beside.open("wb") as file:
            for sample in _in_order(source):
                parts = [np.asarray(sample.image), np.asarray(sample.mask), *map(np.asarray, sample.extras.values())]
                size = sum(p.nbytes for p in parts)
                if at + size > limit:
                    break
                for part in parts:
                    file.write(part.tobytes())
                places.append([at, *sample.image.size])
                at += size
        beside.replace(path)
        about.write_text(json.dumps(places), "utf-8")
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def _in_order(source: FileSource) -> Iterator[Any]:
    """The pictures in order, decoded by several threads."""
    with ThreadPoolExecutor(cores()) as pool:
        for first in range(0, len(source), AHEAD):
            yield from pool.map(source.__getitem__, range(first, min(first + AHEAD, len(source))))
