"""The files below a source folder, and the image that a path in an annotation means."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from urllib.parse import parse_qs, unquote, urlsplit

from barm.data.images import IMAGE_SUFFIXES
from barm.data.sources.tree import HELD_BACK, SPLITS, is_clutter
from barm.errors import UserError
from barm.escaping import normal
from barm.reading import MARKS, open_regular

_SPLIT = re.compile(r"(?<![a-z])(train|training|val|valid|validation|test|testing)(?![a-z])")
PEEK = 2**16  # bytes
_WORDS = {**{word: split for split, words in SPLITS.items() for word in words}, **dict.fromkeys(HELD_BACK, "test")}


class Tree:
    """All files below a folder, without those that operating systems leave behind.

    Args:
        root: the folder.
        images: a further folder in which images are looked for.

    Attributes:
        files: paths below `root`, sorted.

    Raises:
        UserError: if there is no such folder, or it cannot be read.
    """

    def __init__(self, root: Path, images: Path | None = None) -> None:
        for folder in (root, *([images] if images else [])):
            if not folder.is_dir():
                raise UserError(f"no folder {folder}: expected annotations and images in it")
        self.root, self.images_root = root, images
        self.files = tuple(sorted(_walk(root, root)))

    def with_suffix(self, *suffixes: str) -> list[PurePosixPath]:
        """Files with one of these suffixes, in lower case."""
        return [f for f in self.files if f.suffix.lower() in suffixes]

    def named(self, *names: str) -> list[PurePosixPath]:
        """Files of these names, in lower case."""
        return [f for f in self.files if f.name.lower() in names]

    @cached_property
    def images(self) -> dict[str, Path]:
        """Image files by their path below the folder of images."""
        root = self.images_root or self.root
        files = _walk(root, root) if self.images_root else iter(self.files)
        return {normal(f.as_posix()): root / f for f in sorted(files) if f.suffix.lower() in IMAGE_SUFFIXES}

    @cached_property
    def _by_name(self) -> dict[str, list[str]]:
        result = defaultdict[str, list[str]](list)
        for path in self.images:
            result[PurePosixPath(path).name.lower()].append(path)
        return result

    def peek(self, path: PurePosixPath) -> str:
        """The beginning and end of a text file; a large one is not read to know what it is.

        Raises:
            Unfit: if it cannot be opened.
        """
        with open_regular(self.root / path) as file:
            start = file.read(PEEK)
            file.seek(max(len(start), os.fstat(file.fileno()).st_size - PEEK))
            content = start + file.read(PEEK)
        return content.decode(next((name for mark, name in MARKS if content.startswith(mark)), "utf-8"), "replace")

    def find_image(self, text: str, near: PurePosixPath | None = None) -> str | None:
        """The image that an annotation's path means: the one that shares most of the path's end.

        Args:
            text: a path or an address, of this or another machine.
            near: the annotation file; of several images the one in its folder, or in the nearest, is meant.

        Returns:
            A key of `images`, or None.

        Raises:
            UserError: if several images fit equally well.
        """
        for wanted in _readings(text):
            parts = PurePosixPath(wanted).parts
            fits = self._by_name.get(parts[-1].lower(), []) if parts else []
            if not fits:
                continue
            shared = {fit: (_shared_end(PurePosixPath(fit).parts, parts), self._nearness(fit, near)) for fit in fits}
            best = [fit for fit in fits if shared[fit] == max(shared.values())]
            if len(best) > 1:
                raise UserError(
                    f"'{text}' may be {best[0]} or {best[1]} in {self.images_root or self.root}: "
                    "give the folder of the right ones with --images"
                )
            return best[0]
        return None

    def _nearness(self, path: str, near: PurePosixPath | None) -> tuple[int, int]:
        if near is None or self.images_root is not None:
            return 0, 0
        ours, theirs = PurePosixPath(path).parts[:-1], near.parts[:-1]
        return sum(1 for _ in _equal_start(ours, theirs)), -len(ours)


def name_of(path: str) -> str:
    """An item's name: the path without suffix."""
    return PurePosixPath(path).with_suffix("").as_posix()


def split_of(path: PurePosixPath | str, *, file: bool = False) -> str | None:
    """The split that a path names in its nearest folder that names one; None if none does.

    Args:
        path: below the source.
        file: the file's own name may say it, too.

    >>> split_of("valid/a.jpg"), split_of("a/train1.jpg"), split_of("trainer/a.jpg")
    ('val', None, None)
    >>> split_of("annotations/instances_val2017.json", file=True)
    'val'
    """
    path = PurePosixPath(path)
    for part in (*([path.stem] if file else []), *reversed(path.parts[:-1])):
        named = {_WORDS[word] for word in _SPLIT.findall(part.lower())}
        if len(named) == 1:
            return named.pop()
    return None


def _readings(text: str) -> Iterator[str]:
    """The paths that a text may mean: as it stands, decoded, or in an address's query."""
    text = normal(text.strip().replace("\\", "/"))
    yield text.removeprefix("file://")
    yield unquote(text)
    address = urlsplit(text)
    for values in parse_qs(address.query).values():
        yield from values
    if address.query or address.scheme:
        yield unquote(address.path)


def _shared_end(one: Sequence[str], other: Sequence[str]) -> int:
    return sum(1 for _ in _equal_start([p.lower() for p in reversed(one)], [p.lower() for p in reversed(other)]))


def _equal_start(one: Sequence[str], other: Sequence[str]) -> Iterator[str]:
    for ours, theirs in zip(one, other, strict=False):
        if ours != theirs:
            return
        yield ours


def _walk(folder: Path, root: Path) -> Iterator[PurePosixPath]:
    """Files below a folder; links to folders are not followed."""
    try:
        with os.scandir(folder) as entries:
            found = list(entries)
    except OSError as error:
        raise UserError(f"{folder} cannot be read ({error.strerror}): mend its permissions") from None
    for entry in found:
        if is_clutter(entry.name):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(Path(entry.path), root)
        elif entry.is_file():
            yield PurePosixPath(Path(entry.path).relative_to(root).as_posix())
