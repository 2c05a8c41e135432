"""Images without masks, which a step sees beside its own: the previous network is all that speaks about them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

from PIL import Image

from barm.data.base import Sample
from barm.data.fingerprint import Fingerprint, digest
from barm.data.image_files import SUFFIXES, ImageFile, check_images, images_below
from barm.data.images import read_image
from barm.data.sources.files import FileSource
from barm.errors import UserError
from barm.labels import IGNORE
from barm.words import count, verb

HEAD = 1 << 16  # bytes of a file that its record looks at, beside its length


class UnlabelledImages:
    """The images of a folder and of all folders below it.

    Args:
        root: the folder.

    Raises:
        UserError: no image is there.
    """

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise UserError(f"data.unlabelled: {root} is no folder: give one with images")
        self.root, self.images = root, tuple(images_below(root))
        self.names = tuple(path.relative_to(root).as_posix() for path in self.images)
        if not self.images:
            raise UserError(f"data.unlabelled: no images in {root}: expected {', '.join(SUFFIXES)} files there")

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> Sample:
        """Load an image, with a mask of 255."""
        image = read_image(self.images[i])
        return Sample(image, Image.new("L", image.size, IGNORE), {})

    def name(self, i: int) -> str:
        """The image's path below the folder."""
        return self.names[i]

    def check(self, measured: Sequence[FileSource]) -> None:
        """Refuse images that cannot be read, and those that are measured on, whatever their names.

        Args:
            measured: the validation splits.

        Raises:
            UserError: names them.
        """
        files = [ImageFile(path, Path(name)) for path, name in zip(self.images, self.names, strict=True)]
        try:
            check_images(files, remedy="take them out of the folder")
        except UserError as error:
            raise UserError(f"data.unlabelled: {error}") from None
        both = self._equal(path for source in measured for path in source.images)
        if both:
            raise UserError(
                f"data.unlabelled: {count(len(both), 'images')} of {self.root} {verb(len(both), 'are')} in a "
                f"validation split too, such as '{both[0]}': scores would be too high; take them out, or allow it with "
                "--set data.allow_shared=true"
            )

    def _equal(self, others: Iterable[Path]) -> list[str]:
        """Names of the images whose files have the bytes of another one."""
        by_length: dict[int, list[Path]] = {}
        for path in others:
            by_length.setdefault(_length(path), []).append(path)
        found = []
        for name, path in zip(self.names, self.images, strict=True):
            alike = by_length.get(_length(path), [])
            if alike and path.read_bytes() in {other.read_bytes() for other in alike}:
                found.append(name)
        return found

    @cached_property
    def fingerprint(self) -> Fingerprint:
        """Record of the images in order: of each its file's length and first bytes."""
        return {name: _record(path) for name, path in zip(self.names, self.images, strict=True)}


def changed_images(theirs: Fingerprint | None, ours: Fingerprint | None) -> str | None:
    """Describe the first difference between two records of images without labels; None if there is none.

    >>> changed_images({"a.png": "1"}, {"a.png": "1", "b.png": "2"}), changed_images({"a.png": "1"}, {"a.png": "2"})
    ("1 image there, 2 here: 'b.png' is new", "'a.png' is another image")
    """
    there, here = theirs or {}, ours or {}
    for what, some, all_ in (("gone", there, here), ("new", here, there)):
        names = [name for name in some if name not in all_]
        if names:
            return f"{count(len(there), 'images')} there, {len(here)} here: '{names[0]}' is {what}"
    return next((f"'{name}' is another image" for name in there if there[name] != here[name]), None)


def _length(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1


def _record(path: Path) -> str:
    with path.open("rb") as file:
        return digest(os.fstat(file.fileno()).st_size.to_bytes(8, "little") + file.read(HEAD))
