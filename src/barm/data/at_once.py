"""How many images are decoded at once: together no more pixels than the largest single image may have.

Threads that read images take room for them first. So memory is bounded by one image of the largest size that is opened,
however many threads there are: 12 bytes for each of its pixels, 2 GiB in all. Small images do not wait for each other.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

from barm.data.images import open_image

PIXELS = 178_956_970  # of the largest image that Pillow opens
LARGE = 2**22  # pixels; the memory of larger ones is given back to the system: glibc would keep a part for each thread
TRIM: Any = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None


class Room:
    """Room for the pixels of images; whoever needs more than is left waits.

    Args:
        pixels: for all together. An image that has more gets the room when no other is there.
    """

    def __init__(self, pixels: int = PIXELS) -> None:
        self.pixels, self._taken, self._changed = pixels, 0, threading.Condition()

    @contextmanager
    def taken(self, pixels: int) -> Iterator[None]:
        """Take room, and give it back. A thread that has some must not take more, or it may wait for itself."""
        with self._changed:
            self._changed.wait_for(lambda: not self._taken or self._taken + pixels <= self.pixels)
            self._taken += pixels
        try:
            yield
        finally:
            if pixels >= LARGE and TRIM is not None:
                TRIM(0)
            with self._changed:
                self._taken -= pixels
                self._changed.notify_all()


ROOM = Room()


@contextmanager
def room_for(*files: Path | bytes) -> Iterator[None]:
    """Room for images that are read one after the other: that of the largest. Their heads say how large they are.

    Args:
        files: paths, or contents.
    """
    with ROOM.taken(max(map(_pixels, files), default=0)):
        yield


def _pixels(file: Path | bytes) -> int:
    """Pixels of an image; 0 where it cannot be opened, which whoever reads it will say."""
    if isinstance(file, Path) and not file.is_file():  # a pipe would wait for its other end
        return 0
    try:
        with open_image(BytesIO(file) if isinstance(file, bytes) else file) as image:
            return image.width * image.height
    except Exception:  # a damaged file makes decoders fail in any way
        return 0
