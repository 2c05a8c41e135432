"""Images and masks in files: the source behind every layout on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from barm.data.base import Sample
from barm.data.class_values import ClassValues
from barm.data.fingerprint import Content
from barm.data.images import read_image
from barm.data.masks import foreground, read_mask
from barm.data.sources.tree import Remark
from barm.errors import UserError


@dataclass(frozen=True)
class FileSource:
    """A split whose images are files.

    Attributes:
        root: folder of the data set, for messages and the cache.
        split: ``train`` or ``val``.
        names: unique per image.
        images: their files.
        masks: single-channel PNGs of dataset ids.
        class_names: by id, background first.
        palette: colour per id.
        values: what the masks' values mean, where they are not the ids themselves.
        saliency: map per image, where there are any and a method uses them.
        index: class ids per image; filled by `barm.data.index.checked`.
        sizes: upright ``(width, height)`` per image, filled with it.
        contents: digests per image, filled with it.
        areas: pixels of each id per image, filled with it.
        remarks: notes on files that are not used, and on classes that no image shows.
        maps_folder: where saliency maps of the split belong; None if the layout has none.
    """

    root: Path
    split: str
    names: tuple[str, ...]
    images: tuple[Path, ...]
    masks: tuple[Path, ...]
    class_names: tuple[str, ...]
    palette: NDArray[np.uint8] = field(repr=False)
    saliency: tuple[Path, ...] = ()
    values: ClassValues | None = field(default=None, repr=False)
    index: tuple[frozenset[int], ...] | None = field(default=None, repr=False)
    sizes: tuple[tuple[int, int], ...] = field(default=(), repr=False)
    contents: tuple[Content, ...] = field(default=(), repr=False)
    areas: tuple[Mapping[int, int], ...] = field(default=(), repr=False)
    remarks: tuple[Remark, ...] = field(default=(), repr=False)
    maps_folder: Path | None = None

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, i: int) -> Sample:
        """Load image, mask and map.

        Raises:
            UserError: if one cannot be read, or they have several sizes.
        """
        image, mask = read_image(self.images[i]), read_mask(self.masks[i], self.values)
        extras = {"saliency": read_mask(self.saliency[i])} if self.saliency else {}
        for path, values in ((self.masks[i], mask), *((self.saliency[i], v) for v in extras.values())):
            if values.size != image.size:
                (w, h), (width, height) = values.size, image.size
                raise UserError(f"{path} is {w}x{h} but its image {width}x{height}: make both the same size")
        return Sample(image, mask, extras)

    def name(self, i: int) -> str:
        """The image's name."""
        return self.names[i]

    def classes_in(self, i: int) -> frozenset[int]:
        """Foreground ids in the mask."""
        if self.index is None:
            return foreground(read_mask(self.masks[i], self.values))
        return self.index[i]

    def with_index(
        self,
        index: Sequence[frozenset[int]],
        sizes: Sequence[tuple[int, int]] = (),
        contents: Sequence[Content] = (),
        areas: Sequence[Mapping[int, int]] = (),
    ) -> FileSource:
        """A copy of the source that knows the classes, sizes, digests and areas of its images."""
        return replace(self, index=tuple(index), sizes=tuple(sizes), contents=tuple(contents), areas=tuple(areas))

    def saying(self, *remarks: Remark) -> FileSource:
        """A copy of the source with further remarks."""
        return replace(self, remarks=(*self.remarks, *remarks))


def pairs(
    root: Path, split: str, images: Mapping[str, Path], masks: Mapping[str, Path], names: Sequence[str]
) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """Pair the files of the named images. Whether they exist and are sound is checked by the index.

    Raises:
        UserError: for an empty split.
    """
    if not names:
        raise UserError(f"the {split} split of {root} is empty: expected at least one image with a mask")
    return tuple(images[n] for n in names), tuple(masks[n] for n in names)
