"""Images without masks, which a step sees beside its own: the previous network is all that speaks about them."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from PIL import Image

from barm.data.base import Sample
from barm.data.fingerprint import Fingerprint, digest
from barm.data.image_files import check_images, find_images
from barm.data.images import read_image
from barm.errors import UserError
from barm.labels import IGNORE


class UnlabelledImages:
    """The images of a folder and of all folders below it.

    Args:
        root: the folder.

    Raises:
        UserError: no image is there, or one is of no use.
    """

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise UserError(f"data.unlabelled: {root} is no folder: give one with images")
        found = [file for file, _ in check_images(find_images([root]), remedy="take them out of the folder")]
        self.root, self.images = root, tuple(file.path for file in found)
        self.names = tuple(file.name.as_posix() for file in found)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> Sample:
        """Load an image, with a mask of 255."""
        image = read_image(self.images[i])
        return Sample(image, Image.new("L", image.size, IGNORE), {})

    def name(self, i: int) -> str:
        """The image's path below the folder, without suffix."""
        return self.names[i]

    @cached_property
    def fingerprint(self) -> Fingerprint:
        """Record of the images in order, by name."""
        return {name: digest(path.read_bytes()) for name, path in zip(self.names, self.images, strict=True)}
