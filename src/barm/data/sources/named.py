"""A data set mapped to a run's classes by their names; it may label only some of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from barm.data.base import Sample, Source
from barm.data.fingerprint import Content
from barm.data.palette import id_palette
from barm.labels import IGNORE, Lut


class Named:
    """A source whose masks hold a run's class ids.

    Args:
        source: any data set.
        classes: the run's class names for the ids 1, 2, ...; other classes of the source become background.

    Attributes:
        labelled: the run's class ids that the source knows. Pixels of the others are background in it.
    """

    def __init__(self, source: Source, classes: Sequence[str]) -> None:
        self.source, self.class_names = source, ("background", *classes)
        self.table = matching(source.class_names, self.class_names)
        self.labelled = frozenset(int(i) for i in self.table if i not in (0, IGNORE))

    @property
    def palette(self) -> NDArray[np.uint8]:
        """Colour per id, ``(256, 3)`` uint8."""
        return id_palette()

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """``(width, height)`` of every image, where the source knows them."""
        return tuple(getattr(self.source, "sizes", ()))

    @property
    def areas(self) -> tuple[Mapping[int, int], ...]:
        """Pixels of each of the run's ids per image, as the source's index knows them."""
        return tuple(self._area(area) for area in getattr(self.source, "areas", ()))

    def _area(self, area: Mapping[int, int]) -> Counter[int]:
        found: Counter[int] = Counter()
        for value, number in area.items():
            found[int(self.table[value])] += number
        return found

    @property
    def contents(self) -> tuple[Content, ...]:
        """Digests of every image, where the source knows them."""
        return tuple(getattr(self.source, "contents", ()))

    @property
    def own_names(self) -> tuple[str, ...]:
        """The source's class names, by the ids in its masks."""
        return self.source.class_names

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, i: int) -> Sample:
        sample = self.source[i]
        return sample._replace(mask=Image.fromarray(self.table[np.asarray(sample.mask)]))

    def name(self, i: int) -> str:
        """The image's name."""
        return self.source.name(i)

    def classes_in(self, i: int) -> frozenset[int]:
        """Foreground ids in the image's mask."""
        return frozenset(int(self.table[c]) for c in self.source.classes_in(i)) - {0}


def matching(theirs: Sequence[str], ours: Sequence[str]) -> Lut:
    """Table from the ids of one list of class names (background first) to those of another, ``(256,)`` uint8.

    >>> matching(["background", "dog", "cat"], ["background", "cat"])[[0, 1, 2, 255]].tolist()
    [0, 0, 1, 255]
    """
    ids = {name: i for i, name in enumerate(ours) if i}
    table = np.zeros(256, np.uint8)
    table[1 : len(theirs)] = [ids.get(name, 0) for name in theirs[1:]]
    table[IGNORE] = IGNORE
    return table


def labelled(source: Source) -> frozenset[int]:
    """The class ids that a source knows: all of its own, unless it was matched by name."""
    known: frozenset[int] = getattr(source, "labelled", frozenset(range(1, len(source.class_names))))
    return known
