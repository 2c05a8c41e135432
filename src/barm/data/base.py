"""The interface of a data set. A source knows images and masks; it knows nothing about steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from barm.errors import Failed, UserError
from barm.reading import short


class Sample(NamedTuple):
    """One image.

    Attributes:
        image: RGB.
        mask: dataset ids, mode ``L``, of the image's size.
        extras: further single-channel maps of that size, e.g. ``saliency``.
    """

    image: Image.Image
    mask: Image.Image
    extras: Mapping[str, Image.Image]


class Source(Protocol):
    """A split of a data set.

    Attributes:
        class_names: by dataset id, background first.
        palette: colour per id, ``(256, 3)`` uint8.
    """

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names by dataset id, background first."""

    @property
    def palette(self) -> NDArray[np.uint8]:
        """Colour per id, ``(256, 3)`` uint8."""

    def __len__(self) -> int:
        """Number of images."""

    def __getitem__(self, i: int, /) -> Sample:
        """Load one image."""

    def name(self, i: int, /) -> str:
        """The image's unique name in its split."""

    def classes_in(self, i: int, /) -> frozenset[int]:
        """Foreground ids in the image's mask (neither 0 nor 255), without reading the mask again."""


class Images(Protocol):
    """What `load` needs: images by number, each with a name."""

    def __getitem__(self, i: int, /) -> Sample:
        """Load one image."""

    def name(self, i: int, /) -> str:
        """The image's unique name."""


def load(source: Images, i: int) -> Sample:
    """Load one image that was checked when its source was opened.

    Raises:
        Failed: if it can no longer be read.
    """
    try:
        return source[i]
    except Failed:
        raise
    except (UserError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise Failed(
            f"image '{source.name(i)}' can no longer be read ({short(error, 400)}): put back what was there"
        ) from error
