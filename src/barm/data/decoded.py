"""A memory-mapped cache of decoded images: a small data set is decoded once, not in every epoch."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from barm.data.at_once import PIXELS
from barm.data.base import Sample
from barm.data.fingerprint import Content
from barm.data.images import READER
from barm.data.index import cache_folder, cores
from barm.data.sources.files import FileSource
from barm.reading import Unfit, check_regular, read_json
from barm.writing import temporary

Places = list[list[int]]  # offset, width, height and CRC-32 of each image
AHEAD = 64  # images decoded at a time while the file is written


class DecodedSource:
    """A source that keeps its first images decoded in one file, as many as a size limit allows.

    An image whose pixels do not have their checksum any more is decoded from its own file.

    The file's name depends on the names, sizes and times of images, masks and maps. There is one file per split
    of a data set: a new one replaces the last.

    Args:
        source: with its index.
        limit: largest size of the file in bytes.

    Raises:
        OSError: if the file cannot be written; nothing half-written stays.
    """

    def __init__(self, source: FileSource, limit: int) -> None:
        self.source, self.limit = source, limit
        path = cache_folder() / f"decoded-{self._place()}-{self._key()}.bin"
        places = _read(path, source)
        self.pixels: NDArray[np.uint8]
        if places is None:
            places = _write(source, limit, path)
            _remove_others(path, self._place())
        self.places, self.pixels = places, np.empty(0, np.uint8)
        try:
            if places:
                self.pixels = np.memmap(path, np.uint8, mode="r")
        except FileNotFoundError:  # another run with another limit has just put its own in its place
            self.places = []

    def __getstate__(self) -> dict[str, Any]:
        """Pickle the file's name instead of its content, for loaders that are not forked."""
        return {**vars(self), "pixels": getattr(self.pixels, "filename", None)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        path = state["pixels"]
        vars(self).update(state, pixels=np.empty(0, np.uint8) if path is None else np.memmap(path, np.uint8, mode="r"))

    def _place(self) -> str:
        """Digest of the data set's folder and the split: the first part of the cache file's name."""
        source = self.source
        return blake2b(f"{source.root.resolve()}:{source.split}".encode(), digest_size=8).hexdigest()

    def _key(self) -> str:
        """Digest of the names, sizes and times of all files: the second part of the cache file's name."""
        source = self.source
        digest = blake2b(f"{READER}:{self.limit}".encode(), digest_size=12)
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
        """``(width, height)`` of every image."""
        return self.source.sizes

    @property
    def areas(self) -> tuple[Mapping[int, int], ...]:
        """Pixels of each id per image."""
        return self.source.areas

    @property
    def contents(self) -> tuple[Content, ...]:
        """Digests of every image."""
        return self.source.contents

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, i: int) -> Sample:
        if i >= len(self.places):
            return self.source[i]
        start, width, height, checksum = self.places[i]
        area = width * height
        stored = self.pixels[start : start + (5 if self.source.saliency else 4) * area]
        if zlib.crc32(stored.data) != checksum:  # 0.3 ms for 500 x 375 pixels
            return self.source[i]
        image = self.pixels[start : start + 3 * area].reshape(height, width, 3)
        maps = [
            self.pixels[start + k * area : start + (k + 1) * area].reshape(height, width)
            for k in range(3, 5 if self.source.saliency else 4)
        ]
        mask, *extras = (Image.fromarray(m) for m in maps)
        return Sample(Image.fromarray(image), mask, dict(zip(("saliency",), extras, strict=False)))

    def name(self, i: int) -> str:
        """The image's name."""
        return self.source.name(i)

    def classes_in(self, i: int) -> frozenset[int]:
        """Foreground ids in the mask."""
        return self.source.classes_in(i)


def _read(path: Path, source: FileSource) -> Places | None:
    """Read the positions of the images from a cache file that is complete, and of these images."""
    try:
        check_regular(path)
        header, size = read_json(path.with_suffix(".json")), path.stat().st_size
    except (OSError, Unfit):
        return None
    places = header.get("places") if isinstance(header, dict) else None
    if not isinstance(places, list) or len(places) > len(source):
        return None
    if not all(isinstance(p, list) and len(p) == 4 and type(p[3]) is int for p in places):
        return None
    at = 0
    for (width, height), place in zip(source.sizes, places, strict=False):
        if place[:3] != [at, width, height]:
            return None
        at += (5 if source.saliency else 4) * width * height
    return places if size == at else None


def _write(source: FileSource, limit: int, path: Path) -> Places:
    """Decode images until the limit is reached, write them to temporary files, and rename these into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    places, at = Places(), 0
    with temporary(path) as beside:
        with beside.open("wb") as file:
            for sample in _in_order(source):
                planes = [sample.image, sample.mask, *sample.extras.values()]
                parts = [np.asarray(p) for p in planes]
                size = sum(p.nbytes for p in parts)
                if at + size > limit:
                    break
                checksum = 0
                for part in parts:
                    content = part.tobytes()
                    checksum = zlib.crc32(content, checksum)
                    file.write(content)
                places.append([at, *sample.image.size, checksum])
                at += size
        beside.replace(path)
    about = path.with_suffix(".json")
    with temporary(about) as beside:
        beside.write_text(json.dumps({"size": at, "places": places}), "utf-8")
        beside.replace(about)
    return places


def _remove_others(path: Path, place: str) -> None:
    """Remove cache files of earlier states of the split or of other limits.

    A process that still reads such a file keeps it.
    """
    for other in path.parent.glob(f"decoded-{place}-*"):
        if other.stem != path.stem and other.suffix in (".bin", ".json"):
            with suppress(PermissionError):  # Windows leaves a file that is read
                other.unlink(missing_ok=True)


def _in_order(source: FileSource) -> Iterator[Any]:
    """Decode the images in order with several threads."""
    with ThreadPoolExecutor(cores()) as pool:
        for part in _parts(source.sizes):
            yield from pool.map(source.__getitem__, part)


def _parts(sizes: Sequence[tuple[int, int]]) -> Iterator[range]:
    """The images in parts, each of at most `AHEAD` images and, unless it is one alone, `PIXELS` pixels.

    >>> list(_parts([(1, 1), (10_000, 10_000), (10_000, 10_000)]))
    [range(0, 2), range(2, 3)]
    """
    first, pixels = 0, 0
    for i, (width, height) in enumerate(sizes):
        if i > first and (i - first == AHEAD or pixels + width * height > PIXELS):
            yield range(first, i)
            first, pixels = i, 0
        pixels += width * height
    if first < len(sizes):
        yield range(first, len(sizes))
