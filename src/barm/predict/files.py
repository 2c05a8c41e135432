"""Images that are named on the command line: found and looked at before anything heavy is loaded."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from glob import glob
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from barm.data.images import IMAGE_SUFFIXES, check_size, probe_image
from barm.errors import UserError
from barm.reading import real
from barm.words import count, verb

SUFFIXES = IMAGE_SUFFIXES
WILD = "*?["
THREADS = 4  # that read


class ImageFile(NamedTuple):
    """An image, and the name of its results below the output folder, without ending."""

    path: Path
    name: Path


def find_images(given: Sequence[Path | str], out: Path | str | None = None) -> list[ImageFile]:
    """The images that files, folders and patterns stand for, each once, in the order given.

    Hidden files are left out, and so is `out` where it lies below a folder or a pattern's, so that a second call does
    not take the first one's masks for images. A file that does not exist is found too: `check_images` names it.

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


def _members(given: str, out: Path | None) -> Iterator[ImageFile]:
    """Images of one word of the command line, with the names of their results."""
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
    """All images below a folder."""
    for place, folders, files in os.walk(folder):
        here = Path(place)
        folders[:] = [f for f in folders if not f.startswith(".") and real(here / f) != out]
        yield from (here / f for f in files if not f.startswith(".") and Path(f).suffix.lower() in SUFFIXES)


def check_there(found: Sequence[ImageFile], refused: Callable[[str], None] | None = None) -> None:
    """Complain at once where an image is missing, about all that are of no use; a look at the folder is enough.

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
    found: Sequence[ImageFile], refused: Callable[[str], None] | None = None, done: Callable[[], None] = lambda: None
) -> list[tuple[ImageFile, tuple[int, int]]]:
    """Look into images, several at a time.

    Args:
        found: the images.
        refused: see `predict_files`.
        done: is called after each.

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
        raise UserError(f"{many} (--keep-going leaves them out): {'; '.join(wrong)}" if len(found) > 1 else wrong[0])
    if refused is not None:
        for line in wrong:
            refused(line)
    return sound


def _size(path: Path) -> tuple[int, int] | UserError:
    """Upright width and height of an image whose every byte was looked at, or what is wrong with it."""
    try:
        size = probe_image(path)
        check_size(size, str(path))
    except UserError as error:
        return error
    return size
