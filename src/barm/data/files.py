"""Pictures and masks in files: the source behind every layout on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from barm.data.base import Sample
from barm.data.fingerprint import Content
from barm.data.palette import Palette, id_palette
from barm.errors import UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
ID_MODES = ("P", "L", "1")


@dataclass(frozen=True)
class FileSource:
    """A split whose pictures are files.

    Attributes:
        root: folder of the data set, for messages and the cache.
        split: ``train`` or ``val``.
        names: unique per picture.
        images: their files.
        masks: single-channel PNGs of dataset ids.
        class_names: by id, background first.
        palette: colour per id.
        saliency: optional map per picture.
        index: class ids per picture; filled by `barm.data.index.checked`.
        sizes: ``(width, height)`` per picture, filled with it.
        contents: digests per picture, filled with it.
    """

    root: Path
    split: str
    names: tuple[str, ...]
    images: tuple[Path, ...]
    masks: tuple[Path, ...]
    class_names: tuple[str, ...]
    palette: NDArray[np.uint8] = field(repr=False)
    saliency: tuple[Path, ...] = ()
    index: tuple[frozenset[int], ...] | None = field(default=None, repr=False)
    sizes: tuple[tuple[int, int], ...] = field(default=(), repr=False)
    contents: tuple[Content, ...] = field(default=(), repr=False)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, i: int) -> Sample:
        extras = {"saliency": read_mask(self.saliency[i])} if self.saliency else {}
        return Sample(read_image(self.images[i]), read_mask(self.masks[i]), extras)

    def name(self, i: int) -> str:
        """The picture's name."""
        return self.names[i]

    def classes_in(self, i: int) -> frozenset[int]:
        """Foreground ids in the mask."""
        if self.index is None:
            return foreground(read_mask(self.masks[i]))
        return self.index[i]

    def with_index(
        self,
        index: Sequence[frozenset[int]],
        sizes: Sequence[tuple[int, int]] = (),
        contents: Sequence[Content] = (),
    ) -> FileSource:
        """The same source knowing its classes, and sizes and digests, per picture."""
        return replace(self, index=tuple(index), sizes=tuple(sizes), contents=tuple(contents))


def read_image(path: Path) -> Image.Image:
    """A picture as RGB."""
    with Image.open(path) as image:
        return image.convert("RGB")


def read_mask(path: Path) -> Image.Image:
    """A mask as ids: the palette index or grey value itself, mode ``L``.

    Raises:
        UserError: for a mask that is not single-channel 8-bit.
    """
    with Image.open(path) as mask:
        if mask.mode not in ID_MODES:
            raise UserError(
                f"{path}: a mask holds one class id per pixel (palette or 8-bit grey PNG), found mode {mask.mode}"
            )
        mask.load()
        return Image.fromarray(np.array(mask, dtype=np.uint8))


def foreground(mask: Image.Image) -> frozenset[int]:
    """Ids in a mask other than 0 and 255."""
    histogram = mask.histogram()
    return frozenset(i for i in range(1, 255) if histogram[i])


def find_root(root: Path, wanted: Sequence[str], layout: str) -> Path:
    """The folder that holds the wanted sub-folders: `root` itself or one of its children.

    Raises:
        UserError: if there is none, or several children fit.
    """
    if not root.is_dir():
        raise UserError(f"no folder {root}: expected a {layout} data set there; check --data")
    if all((root / w).is_dir() for w in wanted):
        return root
    fits = [c for c in sorted(root.iterdir()) if c.is_dir() and all((c / w).is_dir() for w in wanted)]
    if len(fits) == 1:
        return fits[0]
    found = "several sub-folders have them" if fits else "they are missing"
    raise UserError(f"{root} is not a {layout} data set: expected the folders {', '.join(wanted)}, but {found}")


class Files(dict[str, Path]):
    """Files of a folder by their name without suffix, sorted; a name that is not there gives the path it should have.

    Args:
        folder: must exist.
        suffixes: that count, the expected one first.
    """

    def __init__(self, folder: Path, suffixes: Sequence[str]) -> None:
        if not folder.is_dir():
            raise UserError(f"no folder {folder}: expected {' / '.join(suffixes)} files in it")
        super().__init__({f.stem: f for f in sorted(folder.iterdir()) if f.suffix.lower() in suffixes})
        self.folder, self.suffix = folder, suffixes[0]

    def __missing__(self, name: str) -> Path:
        return self.folder / f"{name}{self.suffix}"


def pairs(
    root: Path, split: str, images: Files, masks: Files, names: Sequence[str]
) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """Files of the named pictures; that they exist and are sound is what the index looks into.

    Raises:
        UserError: for an empty split.
    """
    if not names:
        raise UserError(f"the {split} split of {root} is empty: expected at least one picture with a mask")
    return tuple(images[n] for n in names), tuple(masks[n] for n in names)


def read_lines(path: Path) -> list[str]:
    """Non-empty lines of a list file."""
    if not path.is_file():
        raise UserError(f"no file {path}: expected a list with one name per line")
    return [line.strip() for line in path.read_text("utf-8").splitlines() if line.strip()]


def names_and_colours(
    root: Path, default: tuple[tuple[str, ...], Palette] | None, given: Sequence[str] = ()
) -> tuple[tuple[str, ...], Palette]:
    """Class names from ``classes.txt`` (one per line, a first line ``background`` may be left out).

    Args:
        root: of the data set.
        default: names and colours where there is no such file.
        given: names of the ids 1, 2, ... where there is no such file; these come first.

    Raises:
        UserError: if there are none, or too many, or one twice.
    """
    path = root / "classes.txt"
    if path.is_file():
        lines = read_lines(path)
    elif given:
        lines = list(given)
    elif default is not None:
        return default
    else:
        raise UserError(f"no file {path}: expected the class names, one per line, in the order of the ids 1, 2, ...")
    names = lines[1:] if lines and lines[0].lower() == "background" else lines
    if not names or len(set(names)) != len(names) or len(names) > 254:
        raise UserError(
            f"{path}: expected 1 to 254 different class names, found {len(names)} ({len(set(names))} different)"
        )
    return ("background", *names), id_palette()
