"""Smaller copies of the images and masks of a data set: what a camera takes is far larger than what a network sees."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from barm.data.at_once import room_for
from barm.data.class_values import ORIGINAL, write_class_names
from barm.data.images import SMALLEST
from barm.data.index import cores
from barm.data.new_folder import new_folder
from barm.data.palette import id_palette
from barm.data.progress import progress_bar
from barm.data.sources import open_source
from barm.data.sources.files import FileSource
from barm.data.sources.folder import SALIENCY
from barm.errors import UserError

QUALITY = 95  # of JPEG
JPEG = (".jpg", ".jpeg")


class Resized(NamedTuple):
    """What was written.

    Attributes:
        images: number per split.
        smaller: how many of them were made smaller; the others are copies.
    """

    images: dict[str, int]
    smaller: int


def resize_folder(root: Path | str, out: Path | str, longest: int, layout: str = "auto") -> Resized:
    """Write a data set again, as a plain folder whose images have at most `longest` pixels on a side.

    Images are reduced by a Lanczos filter, masks by the nearest pixel, saliency maps bilinearly; smaller images are
    copied as they are. The masks hold ids, whatever values they held before.

    Args:
        root: of any layout.
        out: a new folder, or an empty one. It gets images, masks and saliency maps by split, and the class names.
        longest: pixels of the longer side.
        layout: of `root`.

    Raises:
        UserError: if `out` holds something, a file cannot be read, or `longest` is too small.
    """
    if longest < SMALLEST:
        raise UserError(f"images of {longest} pixels are too small: expected at least {SMALLEST}")
    sources = [open_source(layout, root, split) for split in ("train", "val")]
    with new_folder(Path(out)) as beside:
        write_class_names(beside, sources[0].class_names[1:])
        values = sources[0].root / ORIGINAL
        if values.exists():
            shutil.copyfile(values, beside / ORIGINAL)
        places = [(source, i) for source in sources for i in range(len(source))]
        with progress_bar(len(places)) as bar, ThreadPoolExecutor(cores()) as pool:
            done = pool.map(lambda place: _write_in_room(*place, root=beside, longest=longest), places)
            smaller = sum(bar.track(done, total=len(places), description="resizing"))
    return Resized({source.split: len(source) for source in sources}, smaller)


def _write_in_room(source: FileSource, i: int, *, root: Path, longest: int) -> bool:
    with room_for(source.images[i], source.masks[i]):
        return _write(source, i, root=root, longest=longest)


def _write(source: FileSource, i: int, *, root: Path, longest: int) -> bool:
    """Write an image, its mask and its map; returns whether they were made smaller."""
    sample, file = source[i], source.images[i]
    width, height = sample.image.size
    factor = min(1.0, longest / max(width, height))
    size = (round(width * factor), round(height * factor))
    if min(size) < SMALLEST <= min(width, height):
        raise UserError(
            f"{file} would have {size[0]} x {size[1]} pixels, but a side needs {SMALLEST}: give a larger --longest"
        )
    smaller = size != sample.image.size
    suffix = file.suffix.lower() if not smaller or file.suffix.lower() in JPEG else ".png"
    target = _target(root / "images" / source.split / (source.names[i] + suffix))
    if smaller:
        sample.image.resize(size, Image.Resampling.LANCZOS).save(target, quality=QUALITY)
    else:
        shutil.copyfile(file, target)
    mask = sample.mask.resize(size, Image.Resampling.NEAREST)
    mask.putpalette(id_palette().tobytes())
    mask.save(_target(root / "masks" / source.split / f"{source.names[i]}.png"))
    if "saliency" in sample.extras:
        reduced = sample.extras["saliency"].resize(size, Image.Resampling.BILINEAR)
        reduced.save(_target(root / SALIENCY / source.split / f"{source.names[i]}.png"))
    return smaller


def _target(path: Path) -> Path:
    """A file whose folder is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
