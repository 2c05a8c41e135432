"""Find and check images in files, folders and patterns, before heavy imports."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from glob import glob
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from barm.data.at_once import room_for
from barm.data.images import IMAGE_SUFFIXES, check_size, probe_image
from barm.errors import UserError
from barm.reading import real
from barm.words import count, verb

SUFFIXES = IMAGE_SUFFIXES
WILD = "*?["
THREADS = 4  # that read


class ImageFile(NamedTuple):
    """An image file, and the name of its results below the output folder, without suffix."""

    path: Path
    name: Path


def find_images(given: Sequence[Path | str], out: Path | str | None = None) -> list[ImageFile]:
    """Find the images of files, folders and patterns, each once, in the given order.

    Hidden files are left out. So is `out` if it lies below a given folder or pattern; otherwise a second call would
    take the first one's masks for images. A file that does not exist is found too: `check_images` names it.

    Raises:
        UserError: nothing there, `out` is itself one of the folders, or two images' results would have one name.
    """
    names: dict[Path, Path] = {}
    for one in given:
        for path, name in _members(str(one), None if out is None else real(Path(out))):
            other = names.setdefault(name, path)
            if other != path and real(other) != real(path):
                raise UserError(
                    f"{other} and {path} would be written under one name: rename one, or predict them separately"
                )
    return [ImageFile(path, name) for name, path in names.items()]


def images_below(folder: Path) -> list[Path]:
    """The images in a folder and in all folders below it, sorted; hidden ones are left out."""
    return sorted(_walk(folder, None))


def _members(given: str, out: Path | None) -> Iterator[ImageFile]:
    """Images of one argument of the command line, with the names of their results."""
    path = Path(given)
    if not given.strip():  # an empty variable of a shell is not the folder where it runs
        raise UserError("no images at '': give files, folders or patterns; . is the folder here")
    if path.is_dir():
        if real(path) == out:
            raise UserError(f"the results would lie among the images in {path}: choose another --out")
        root, below = path, sorted(_walk(path, out))
    elif not path.exists() and any(sign in given for sign in WILD):
        fixed = list(takewhile(lambda part: not any(sign in part for sign in WILD), path.parts))
        root = Path(*fixed)
        below = sorted(root / p for p in glob(str(path.relative_to(root)), root_dir=root, recursive=True))
        below = [p for p in below if p.is_file() and p.suffix.lower() in SUFFIXES]
        if out is not None and out != real(root):
            below = [p for p in below if out not in real(p).parents]
    else:
        yield ImageFile(path, Path(path.stem))
        return
    if not below:
        raise UserError(f"no images at {given}: expected {', '.join(SUFFIXES)} files there")
    yield from (ImageFile(p, p.relative_to(root).with_suffix("")) for p in below)


def _walk(folder: Path, out: Path | None) -> Iterator[Path]:
    """Find all images below a folder."""
    for place, folders, files in os.walk(folder):
        here = Path(place)
        folders[:] = [f for f in folders if not f.startswith(".") and real(here / f) != out]
        yield from (here / f for f in files if not f.startswith(".") and Path(f).suffix.lower() in SUFFIXES)


def check_there(found: Sequence[ImageFile], refused: Callable[[str], None] | None = None) -> None:
    """Refuse missing images early, together with all other unusable ones. If none is missing, no file is read.

    Args:
        found: the images.
        refused: see `check_images`.

    Raises:
        UserError: as `check_images`.
    """
    missing = [one for one in found if not one.path.is_file()]
    if missing and (refused is None or len(missing) == len(found)):
        check_images(found, None if refused is None else lambda _: None)


def check_images(
    found: Sequence[ImageFile],
    refused: Callable[[str], None] | None = None,
    done: Callable[[], None] = lambda: None,
    remedy: str = "--keep-going leaves them out",
) -> list[tuple[ImageFile, tuple[int, int]]]:
    """Check images, several at a time.

    Args:
        found: the images.
        refused: see `predict_files`.
        done: called after each.
        remedy: what to do about several of no use.

    Returns:
        The sound ones with their upright ``(width, height)``.

    Raises:
        UserError: names every image that is missing, no image, cut short, or too small.
    """
    sound, wrong = list[tuple[ImageFile, tuple[int, int]]](), list[str]()
    with ThreadPoolExecutor(THREADS) as pool:
        for one, outcome in zip(found, pool.map(lambda f: _size(f.path), found), strict=True):
            if isinstance(outcome, UserError):
                wrong.append(str(outcome))
            else:
                sound.append((one, outcome))
            done()
    if wrong and (refused is None or not sound):
        many = f"{len(wrong)} of {count(len(found), 'images')} {verb(len(wrong), 'are')} of no use"
        raise UserError(f"{many} ({remedy}): {'; '.join(wrong)}" if len(found) > 1 else wrong[0])
    if refused is not None:
        for line in wrong:
            refused(line)
    return sound


def _size(path: Path) -> tuple[int, int] | UserError:
    """Read the upright width and height of an image and check all of its bytes; returns the error if there is one."""
    try:
        with room_for(path):
            size = probe_image(path)
        check_size(size, str(path))
    except UserError as error:
        return error
    return size
