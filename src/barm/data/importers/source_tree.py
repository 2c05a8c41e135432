"""The files below a source folder, and the image that a path in an annotation means."""

from __future__ import annotations

import os
import re
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from posixpath import normpath
from typing import NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from barm.data.images import IMAGE_SUFFIXES
from barm.data.sources.tree import HELD_BACK, SPLITS, is_clutter
from barm.errors import UserError
from barm.escaping import normal
from barm.reading import MARKS, open_regular, real

_SPLIT = re.compile(r"(?<![a-z])(train|training|val|valid|validation|test|testing)(?![a-z])")
_MACHINE = re.compile(r"[a-z]:/|[a-z][a-z0-9+.-]+://", re.IGNORECASE)  # a drive, or an address
PEEK = 2**16  # bytes
_WORDS = {**{word: split for split, words in SPLITS.items() for word in words}, **dict.fromkeys(HELD_BACK, "test")}


class _Wanted(NamedTuple):
    """A path that an annotation's text may mean.

    Attributes:
        text: the path.
        parts: names of its folders and its file, without those that lead upwards.
        foreign: whether its folders are those of another machine, or of a service.
    """

    text: str
    parts: tuple[str, ...]
    foreign: bool


class Tree:
    """All files below a folder, without those that operating systems leave behind.

    Args:
        root: the folder.
        images: a further folder in which images are looked for.
        follow_links: links may lead to files and folders outside of `root`.

    Attributes:
        files: paths below `root`, sorted.
        folders: real paths of the folders that were entered.

    Raises:
        UserError: if there is no such folder, it cannot be read, or a link to a file leads out of it.
    """

    def __init__(self, root: Path, images: Path | None = None, *, follow_links: bool = False) -> None:
        for folder in (root, *([images] if images else [])):
            if folder.is_file():
                raise UserError(f"{folder} is a file: give the folder that holds it, and unpack an archive first")
            if not folder.is_dir():
                raise UserError(f"no folder {folder}: expected annotations and images in it")
        self.root, self.images_root, self.follow_links = root, images, follow_links
        self.folders = set[Path]()
        self.files = tuple(sorted(self._walk(root)))

    def _walk(self, root: Path) -> Iterator[PurePosixPath]:
        """Files below a folder. Links to folders come last, so that a folder is found at its own place, and once.

        Raises:
            UserError: if a folder cannot be read, or a link leads out.
        """
        folders, links, entered = [root], deque[Path](), set[Path]()
        while folders or links:
            folder = folders.pop() if folders else links.popleft()
            if self.follow_links and real(folder) in entered:
                continue
            entered.add(real(folder))
            self.folders.add(real(folder))
            for entry in _entries(folder):
                path = Path(entry.path)
                if entry.is_dir(follow_symlinks=False):
                    folders.append(path)
                elif self.follow_links and path.is_dir():
                    links.append(path)
                elif path.is_file():
                    if entry.is_symlink() and not self.follow_links:
                        _check_link(path, root)
                    yield PurePosixPath(path.relative_to(root).as_posix())

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
        files = self._walk(root) if self.images_root else iter(self.files)
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
        """The image that an annotation's path means.

        A relative path means the file below the annotation's folder, or one with all of its folders. Folders of another
        machine need not be there: what is left of the path counts, or the file's name, if no other image has it. No
        image is meant that lies in another folder, split or scene than the path or the annotation file says.

        Args:
            text: a path or an address, of this or another machine.
            near: the annotation file; of several images the one in its folder, or in the nearest, is meant.

        Returns:
            A key of `images`, or None.

        Raises:
            UserError: if several images fit equally well.
        """
        for wanted in _readings(text):
            fits = self._by_name.get(wanted.parts[-1].lower(), [])
            exact = self._relative_to(near, wanted) if fits and near and not wanted.foreign else None
            if exact is not None:
                return exact
            fits = [fit for fit in fits if not (self._elsewhere(fit, wanted) or self._of_others(fit, wanted, near))]
            shared = {fit: _shared_end(PurePosixPath(fit).parts, wanted.parts) for fit in fits}
            whole = [fit for fit in fits if shared[fit] in (len(PurePosixPath(fit).parts), len(wanted.parts))]
            ranks = {fit: (shared[fit], self._nearness(fit, near)) for fit in whole}
            best = [fit for fit in whole if ranks[fit] == max(ranks.values())]
            if not whole and (wanted.foreign or self.images_root is not None):
                best = fits
            if len(best) > 1:
                raise UserError(
                    f"'{text}' may be {best[0]} or {best[1]} in {self.images_root or self.root}: "
                    "give the folder of the right ones with --images"
                )
            if best:
                return best[0]
        return None

    @cached_property
    def _ends(self) -> set[tuple[str, ...]]:
        """The ends of the paths of all folders of images, in lower case."""
        folders = {PurePosixPath(path.lower()).parts[:-1] for path in self.images}
        return {folder[start:] for folder in folders for start in range(len(folder))}

    @cached_property
    def _kinds(self) -> set[tuple[str, str]]:
        """The folder and the suffix of every image, in lower case."""
        paths = [PurePosixPath(path.lower()) for path in self.images]
        return {(path.parent.as_posix(), path.suffix) for path in paths}

    @cached_property
    def _splits(self) -> set[str | None]:
        return {split_of(f"{folder}/x") for folder, _ in self._kinds}

    @cached_property
    def _keys(self) -> dict[str, str]:
        return {path.lower(): path for path in reversed(self.images)}

    def _relative_to(self, near: PurePosixPath, wanted: _Wanted) -> str | None:
        """The image at a path below the annotation's folder."""
        path = normpath(f"{near.parent}/{wanted.text}")
        return None if self.images_root is not None else path if path in self.images else self._keys.get(path.lower())

    def _elsewhere(self, path: str, wanted: _Wanted) -> bool:
        """Whether a folder with more of the wanted path has images, so that one that is not in it is not meant."""
        folders = tuple(part.lower() for part in wanted.parts[:-1])
        number = _shared_end(PurePosixPath(path).parts[:-1], folders) + 1
        return number <= len(folders) and folders[-number:] in self._ends

    def _of_others(self, path: str, wanted: _Wanted, near: PurePosixPath | None) -> bool:
        """Whether an image lies in another split, or beside other annotations, than an annotation file."""
        if near is None:
            return False
        theirs, ours = PurePosixPath(path), near
        common = 0 if self.images_root is not None else sum(1 for _ in _equal_start(theirs.parts[:-1], near.parts[:-1]))
        theirs, ours = PurePosixPath(*theirs.parts[common:]), PurePosixPath(*near.parts[common:])
        split, own, named = split_of(theirs), split_of(ours), split_of(ours, file=True)
        if None not in (split, own) and split != own:
            return True
        if None not in (split, named) and split != named and named in self._splits:
            return split_of(PurePosixPath(*wanted.parts)) != split
        if wanted.foreign or self.images_root is not None:
            return False
        for above in near.parents:  # a folder with other images, in which the wanted one would be
            folder = normpath(f"{above}/{wanted.text}/..").lower()
            inside = folder == "." or path.lower().startswith(f"{folder}/")
            if not inside and (folder, theirs.suffix.lower()) in self._kinds:
                return True
        others = [PurePosixPath(*near.parts[:common], *theirs.parts[:n]) for n in range(1, len(theirs.parts))]
        return len(ours.parts) > 1 and any(each / near.name in self._files for each in others)

    @cached_property
    def _files(self) -> frozenset[PurePosixPath]:
        return frozenset(self.files)

    def _nearness(self, path: str, near: PurePosixPath | None) -> tuple[int, int]:
        if near is None or self.images_root is not None:
            return 0, 0
        ours, theirs = PurePosixPath(path).parts[:-1], near.parts[:-1]
        return sum(1 for _ in _equal_start(ours, theirs)), -len(ours)


class Claims:
    """The annotation of each image."""

    def __init__(self) -> None:
        self._owners = dict[str, str]()

    def add(self, image: str, owner: str) -> None:
        """Note that an annotation is that of an image.

        Raises:
            UserError: if another one is.
        """
        other = self._owners.setdefault(image, owner)
        if other != owner:
            raise UserError(f"{other} and {owner} are both of the image {image}: keep one of them, or mend its path")


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


def _readings(text: str) -> Iterator[_Wanted]:
    """The paths that a text may mean: as it stands, decoded, or in an address's query."""
    text = normal(text.strip().replace("\\", "/"))
    foreign = text.startswith("/") or _MACHINE.match(text) is not None
    texts = [(text.removeprefix("file://"), foreign), (unquote(text), foreign)]
    try:
        address = urlsplit(text)
        texts += [(value, True) for values in parse_qs(address.query).values() for value in values]
    except ValueError:  # brackets where a host's number would be
        address = urlsplit("")
    if address.query or address.scheme:
        texts.append((unquote(address.path), True))
    for each, of_others in texts:
        parts = tuple(part for part in PurePosixPath(normpath(each)).parts if part not in ("/", "//", "..", "."))
        if parts:
            yield _Wanted(each, parts, of_others)


def _shared_end(one: Sequence[str], other: Sequence[str]) -> int:
    return sum(1 for _ in _equal_start([p.lower() for p in reversed(one)], [p.lower() for p in reversed(other)]))


def _equal_start(one: Sequence[str], other: Sequence[str]) -> Iterator[str]:
    for ours, theirs in zip(one, other, strict=False):
        if ours != theirs:
            return
        yield ours


def _check_link(path: Path, root: Path) -> None:
    """Refuse a link to a file outside of the source, which somebody may have put there to have it copied.

    The cache of Hugging Face's hub has links in `snapshots` to files in `blobs` beside it.
    """
    target, inside = real(path), [real(root)]
    if inside[0].parent.name == "snapshots":
        inside.append(inside[0].parents[1] / "blobs")
    if not any(target.is_relative_to(folder) for folder in inside):
        raise UserError(
            f"{path} is a link to a file outside of {root}: add --follow-links if that is meant, or put "
            "the file itself there"
        )


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not is_clutter(entry.name)]
    except OSError as error:
        raise UserError(f"{folder} cannot be read ({error.strerror}): mend its permissions") from None
