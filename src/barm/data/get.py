"""Fetch a published data set into the folder layout that training reads, and go on where an earlier call ended."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from filelock import FileLock, Timeout

from barm.data.archives import DATASETS, Archive, Dataset, overridden
from barm.data.fetch import TIMEOUT, Progress, check_space, fetch, part_of
from barm.data.sources import LAYOUTS, open_source
from barm.data.sources.tree import Files, levels, listed
from barm.data.sources.voc import AUGMENTED, LISTS
from barm.data.unpack import unpack
from barm.errors import UserError
from barm.words import count
from barm.writing import write_atomically

DOWNLOADS = ".download"  # in the data set's folder; it goes when all is in its place
LOCK = "lock"
RACES = 20  # with processes that end, each of which removes the lock's file
VAL, TRAIN_AUG = f"{LISTS[0]}/val.txt", f"{LISTS[0]}/train_aug.txt"


@dataclass(frozen=True)
class Plan:
    """The work that is left for a data set.

    Attributes:
        dataset: to be fetched.
        root: its folder.
        archives: those of which parts are missing.
        fetched: bytes by archive that are on this machine already.
    """

    dataset: Dataset
    root: Path
    archives: tuple[Archive, ...]
    fetched: dict[str, int]

    @property
    def downloads(self) -> Path:
        """The folder of the archives."""
        return self.root / DOWNLOADS

    @property
    def needed(self) -> int:
        """Bytes that are written at most: archives whose size is not known count as what they unpack to."""
        sizes = {a.name: a.size or a.unpacked for a in self.archives}
        left = sum(max(0, size - self.fetched[name]) for name, size in sizes.items())
        return left + sum(a.unpacked for a in self.archives)

    @property
    def complete(self) -> bool:
        """Whether nothing is left to do."""
        return not self.archives and (self.dataset.layout != "voc" or (self.root / TRAIN_AUG).exists())


def get_data(
    name: str,
    root: Path | str,
    *,
    addresses: Sequence[str] = (),
    checksums: Sequence[str] = (),
    keep: bool = False,
    timeout: float = TIMEOUT,
    say: Callable[[str], None] = lambda _: None,
) -> tuple[int, int]:
    """Fetch a published data set and unpack it; go on where an earlier call ended.

    Args:
        name: ``voc`` or ``ade20k``.
        root: its folder, new or begun.
        addresses: ``NAME=URL`` of archives that come from elsewhere; a file's path works, too.
        checksums: ``NAME=HEX`` of archives that are not the published ones, or ``NAME=none``.
        keep: leave the archives in the folder ``.download``.
        timeout: seconds without an answer of a host.
        say: called with a line on every step.

    Returns:
        Number of training and of validation images.

    Raises:
        UserError: for an unknown name, no space, no answer, or a wrong or damaged archive; what is complete stays.
        Failed: the connection is cut again and again.
    """
    if name not in DATASETS:
        raise UserError(f"no data set '{name}' can be fetched: expected one of {', '.join(DATASETS)}")
    archives = overridden(DATASETS[name].archives, addresses, checksums)
    work = plan(replace(DATASETS[name], archives=archives), Path(root))
    return get(work, say, lambda _title, _done, _size: None, keep=keep, timeout=timeout)


def plan(dataset: Dataset, root: Path) -> Plan:
    """Plan what is left to do; nothing is written, and no host is asked.

    Args:
        dataset: to be fetched.
        root: the data set's folder, which need not exist, or one up to two levels above a tree that is there already.

    Raises:
        UserError: if the folder is a file, or holds the data set twice.
    """
    if root.exists() and not root.is_dir():
        raise UserError(f"{root} is a file: expected a folder for {dataset.title}, or a new name")
    root = _tree(dataset, root)
    archives = tuple(archive for archive in dataset.archives if archive.missing(root))
    return Plan(dataset, root, archives, {archive.name: _fetched(archive, root / DOWNLOADS) for archive in archives})


def get(
    work: Plan, say: Callable[[str], None], progress: Progress, *, keep: bool = False, timeout: float = TIMEOUT
) -> tuple[int, int]:
    """Fetch and unpack what is missing, and open the data set.

    Args:
        work: as `plan` made it.
        say: called with a line on every step.
        progress: called with what is done, and bytes.
        keep: leave the archives in the folder `DOWNLOADS`.
        timeout: seconds without an answer of a host.

    Returns:
        Number of training and of validation images.

    Raises:
        UserError: no space, no answer, or a wrong or damaged archive; what is complete stays.
        Failed: the connection is cut again and again.
    """
    if work.complete:
        return _open(work.dataset, work.root)
    check_space(work.root, work.needed, work.dataset.title)
    try:
        with _locked(work.downloads):
            for archive in work.archives:
                _put_in_place(archive, work, say, progress, keep, timeout)
            if work.dataset.layout == "voc":
                _list_training(work.root, say)
            return _open(work.dataset, work.root)
    except Timeout:
        raise UserError(f"{work.root} is being fetched by another process: wait, or give another folder") from None


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other processes out of a folder, and remove it afterwards if it is empty, as the folder above it.

    The lock's file is removed, too, as the last thing under the lock. Who has opened it before that locks a file that
    is gone, which keeps nobody out: the lock counts only if its file is still in its place, otherwise it is taken anew.

    Raises:
        Timeout: if another process has the lock.
    """
    path = folder / LOCK
    lock = FileLock(path, timeout=0)
    for _ in range(RACES):
        folder.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):  # the folder was removed meanwhile
            path.touch()
            before = _identity(path)
            lock.acquire()
            if before is not None and _identity(path) == before:
                break
            lock.release()
    else:
        raise Timeout(str(path))
    try:
        yield
    finally:
        with suppress(OSError):  # where open files cannot be removed, it is removed later
            path.unlink()
        lock.release()
        with suppress(OSError):
            if os.name == "nt":
                path.unlink(missing_ok=True)
            folder.rmdir()
            folder.parent.rmdir()


def _identity(path: Path) -> tuple[int, int] | None:
    """The number of a file on its disk; None if there is no file."""
    try:
        about = path.stat()
    except FileNotFoundError:
        return None
    return about.st_dev, about.st_ino


def _put_in_place(
    archive: Archive, work: Plan, say: Callable[[str], None], progress: Progress, keep: bool, timeout: float
) -> None:
    path = fetch(archive, work.downloads, progress, timeout=timeout)
    if archive.checksum is None:
        checked = "the numbers of files are checked instead" if archive.published else "its content is not checked"
        say(f"{archive.name}: {archive.file} has no checksum to compare with; {checked}")
    parts = archive.missing(work.root)
    beside = work.downloads / f"{archive.name}.unpacked"
    try:
        found = unpack(path, archive, parts, beside, lambda done, size: progress(f"{archive.name}: unpack", done, size))
    except UserError:
        if archive.local is None:  # a new download may be sound
            path.unlink(missing_ok=True)
        raise
    if hasattr(os, "sync"):  # not on Windows; tens of thousands of files one by one would take minutes
        os.sync()
    for part in parts:
        target = work.root / part.path
        target.parent.mkdir(parents=True, exist_ok=True)
        with suppress(OSError):  # an empty folder in its place
            target.rmdir()
        (beside / part.path).rename(target)
        say(f"{target}: {count(found[part.path], 'files')}")
    shutil.rmtree(beside)
    if archive.local is None and not keep:
        path.unlink()


def _list_training(root: Path, say: Callable[[str], None]) -> None:
    """Write the list of VOC's augmented training images, if there is none: all masks that are not in ``val.txt``.

    12 031 masks without 1449 images for validation are 10 582 names, as many as the published list has.
    """
    target = root / TRAIN_AUG
    if target.exists():
        return
    masks = Files(root / AUGMENTED, (".png",))
    held_out = set(listed(root / VAL, masks))
    names = [name for name in masks if name not in held_out]
    write_atomically(target, "".join(f"{name}\n" for name in names).encode())
    say(f"{target}: {count(len(names), 'names')}, all masks that are not in val.txt (no archive holds this list)")


def _open(dataset: Dataset, root: Path) -> tuple[int, int]:
    """Open both splits, and check that every image and mask is there."""
    numbers = list[int]()
    for split in ("train", "val"):
        source = open_source(dataset.layout, root, split)
        lost = [path for path in (*source.images, *source.masks) if not path.is_file()]
        if lost:
            raise UserError(
                f"{root} is not complete: {count(len(lost), 'files')} of the {split} split missing, such as {lost[0]}; "
                f"move {lost[0].parent} away and run the command again"
            )
        numbers.append(len(source))
    return numbers[0], numbers[1]


def _tree(dataset: Dataset, root: Path) -> Path:
    """The folder of the data set: where a tree of its layout is, or `root`."""
    if not root.is_dir():
        return root
    layout = LAYOUTS[dataset.layout]
    found = [folder for level in levels(root) for folder in level if not layout.lacks(folder)]
    if len(found) > 1:
        raise UserError(f"{root} holds several {layout.title} data sets ({found[0]}, {found[1]}): give one of them")
    return found[0] if found else root


def _fetched(archive: Archive, downloads: Path) -> int:
    """Bytes of an archive that are on this machine."""
    if archive.local is not None:
        return archive.size or archive.unpacked
    paths = (downloads / archive.file, part_of(archive, downloads))
    return max((path.stat().st_size for path in paths if path.is_file()), default=0)
