"""Folders on disk: recognise their layout, find its root, and pair files."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

from barm.data.images import IMAGE_SUFFIXES
from barm.data.text import read_lines
from barm.errors import UserError
from barm.escaping import normal
from barm.words import count, noun

MASK_SUFFIXES = (".png", ".tif", ".tiff", ".bmp")  # that keep every value
SPLITS = {"train": ("train", "training"), "val": ("val", "valid", "validation")}
HELD_BACK = ("test", "testing")  # sub-folders of images that no split uses
CLUTTER = ("thumbs.db", "desktop.ini", "__macosx")  # of operating systems, beside names that begin with a dot
DEPTH = 2  # folders below the given one in which a data set is looked for
Level = Literal["note", "warning"]


class Remark(NamedTuple):
    """A remark about a data set that can still be used: a `warning` is likely a mistake, a `note` is not."""

    level: Level
    text: str


@dataclass(frozen=True)
class Layout:
    """Description of a layout, by which a folder is recognised.

    Attributes:
        title: as people call it.
        parts: folders that it has, with the names that each may have instead.
    """

    title: str
    parts: tuple[tuple[str, ...], ...]

    def lacks(self, folder: Path) -> list[str]:
        """The parts of the layout that a folder lacks."""
        return [" or ".join(names) for names in self.parts if not any((folder / name).is_dir() for name in names)]


def is_clutter(name: str) -> bool:
    """Whether it is a file or folder that an operating system leaves behind."""
    return name.startswith(".") or name.lower() in CLUTTER


def levels(root: Path) -> Iterator[list[Path]]:
    """The folder itself, its sub-folders, and theirs.

    Raises:
        UserError: if it is none, or may not be read.
    """
    if not root.is_dir():
        raise UserError(f"no folder {root}: expected a data set there; check --data")
    level = [root]
    for _ in range(DEPTH + 1):
        yield level
        level = [Path(entry.path) for folder in level for entry in _entries(folder) if entry.is_dir()]
        level = [f for f in level if not is_clutter(f.name) and os.access(f, os.R_OK | os.X_OK)]


def find_root(root: Path, layout: Layout) -> Path:
    """Find the folder that has a layout: `root` itself, or one up to two levels below.

    Raises:
        UserError: if there is none, or several fit.
    """
    for level in levels(root):
        fits = [folder for folder in level if not layout.lacks(folder)]
        if len(fits) > 1:
            several = " and ".join(str(f.relative_to(root)) for f in fits[:2])
            raise UserError(f"{root} holds several {layout.title} data sets ({several}): give one of them")
        if fits:
            return fits[0]
    raise UserError(f"{root} is no {layout.title} data set: {lacking(root, layout)}")


def lacking(root: Path, layout: Layout) -> str:
    """Describe what is missing from the folder that is nearest to a layout."""
    folders = [folder for level in levels(root) for folder in level]
    best = min(folders, key=lambda folder: len(layout.lacks(folder)))  # of equals the highest
    missing = layout.lacks(best)
    where = best if len(missing) < len(layout.parts) and best != root else root
    return f"{where} lacks the {noun(len(missing), 'folders')} {', '.join(missing)}"


def split_folder(parent: Path, split: str) -> Path | None:
    """The sub-folder of a split, under any of its possible names.

    Raises:
        UserError: if there are several.
    """
    found = [Path(e.path) for e in _entries(parent) if e.is_dir() and e.name.lower() in SPLITS[split]]
    if len(found) > 1:
        names = " and ".join(sorted(f.name for f in found))
        raise UserError(f"{parent} has {names}, which are both the {split} split: merge them, or rename one")
    return found[0] if found else None


class Files(dict[str, Path]):
    """Files of a folder by their name without suffix, sorted.

    For a name that is not there, the path that the file should have.

    Args:
        folder: must exist.
        suffixes: accepted suffixes, the expected one first.
        deep: include sub-folders, which are then part of the names: ``city/street``.
        without: sub-folders of the first level that are left out.

    Attributes:
        twins: names that several files have.
        others: files with other suffixes.
        clutter: number of files that operating systems left behind.

    Raises:
        UserError: if there is no such folder.
    """

    def __init__(
        self, folder: Path, suffixes: Sequence[str], *, deep: bool = False, without: Collection[str] = ()
    ) -> None:
        if not folder.is_dir():
            raise UserError(f"no folder {folder}: expected {' / '.join(suffixes)} files in it")
        super().__init__()
        self.folder, self.suffix = folder, suffixes[0]
        self.twins, self.others, self.clutter = list[str](), list[Path](), 0
        for path in sorted(_walk(folder, deep, without)):
            name = normal(path.relative_to(folder).with_suffix("").as_posix())
            if is_clutter(path.name):
                self.clutter += 1
            elif path.suffix.lower() not in suffixes:
                self.others.append(path)
            elif name in self:
                self.twins.append(name)
            else:
                self[name] = path

    def __missing__(self, name: str) -> Path:
        return self.folder / f"{name}{self.suffix}"


def no_twins(files: Files, what: str) -> None:
    """Refuse two images, or two masks, of one name."""
    if files.twins:
        raise UserError(
            f"{files.folder}: two {what} are called '{files.twins[0]}' but for their endings; rename one, masks are "
            "matched by name"
        )


def listed(path: Path, known: Mapping[str, Path]) -> list[str]:
    """Read the names in a list, each once: one per line, with or without suffix and folders, or a pair of paths.

    Args:
        path: of the list.
        known: images by name.

    Raises:
        UserError: if there is no such file, or it is no text.
    """
    short: dict[str, str | None] = {}
    for name in known:
        base = PurePosixPath(name).name
        short[base] = None if base in short else name
    return list(dict.fromkeys(_named(line, known, short) for line in read_lines(path)))


def _named(line: str, known: Mapping[str, Path], short: Mapping[str, str | None]) -> str:
    """The name that a line means: the longest known one, or else the line's own.

    A name may itself end like an image's file, as that of ``a.png.jpg`` does.
    """
    line = line.replace("\\", "/").removeprefix("./").lstrip("/")
    tried = [reading for text in (line, line.split()[0]) for reading in (text, _stem(text))]
    for text in tried:
        parts = PurePosixPath(text).parts
        for start in range(len(parts)):
            name = "/".join(parts[start:])
            if name in known:
                return name
        if parts and (only := short.get(parts[-1])) is not None:
            return only
    return PurePosixPath(tried[-1]).name


def _stem(name: str) -> str:
    """A file's name without the suffix of an image; other dots stay."""
    head, dot, suffix = name.rpartition(".")
    return head if dot and f".{suffix.lower()}" in IMAGE_SUFFIXES else name


def unused(files: Files, names: Collection[str], what: str, why: str, level: Level = "warning") -> list[Remark]:
    """Report the files of a folder whose names are not used.

    >>> unused(Files(Path("."), (".none",)), [], "images", "have no mask")
    []
    """
    used = set(names)
    left = [files[name] for name in files if name not in used]
    return [Remark(level, f"{files.folder}: {count(len(left), what)} {why}, such as {left[0].name}")] if left else []


def strangers(files: Files, what: str) -> list[Remark]:
    """Report the files of a folder that are neither images nor masks."""
    remarks = list[Remark]()
    kinds = sorted({path.suffix.lower() or "none" for path in files.others})
    if files.others:
        jpeg = what == "masks" and any(kind in (".jpg", ".jpeg") for kind in kinds)
        why = "; JPEG changes the ids in a mask, save PNG" if jpeg else ""
        number, name = len(files.others), files.others[0].name
        remarks.append(
            Remark(
                "warning",
                f"{files.folder}: {count(number, 'files')} not read as {what} ({', '.join(kinds)}), such as {name}"
                f"{why}",
            )
        )
    if files.clutter:
        remarks.append(Remark("note", f"{files.folder}: {count(files.clutter, 'files')} of operating systems left out"))
    return remarks


def other_folders(parent: Path, used: Collection[Path]) -> list[Remark]:
    """Report sub-folders that no split uses."""
    left = sorted(Path(e.path) for e in _entries(parent) if e.is_dir() and not is_clutter(e.name))
    left = [folder for folder in left if folder not in used]
    return [
        Remark("note" if folder.name.lower() in HELD_BACK else "warning", f"{folder}: this folder is not used")
        for folder in left
    ]


def loose(parent: Path, suffixes: Sequence[str]) -> list[Remark]:
    """Report files beside the sub-folders of the splits."""
    files = Files(parent, suffixes)
    return unused(files, (), "files", "not used, since the splits are sub-folders")


def _walk(folder: Path, deep: bool, without: Collection[str]) -> Iterator[Path]:
    for entry in _entries(folder):
        if not entry.is_dir():
            yield Path(entry.path)
        elif deep and not is_clutter(entry.name) and entry.name.lower() not in without:
            yield from _walk(Path(entry.path), deep, ())


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise UserError(f"{folder} cannot be read ({error.strerror}): mend its permissions") from None
