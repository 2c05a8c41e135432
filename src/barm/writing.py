"""Write files completely or not at all, even if the power fails."""

from __future__ import annotations

import glob
import json
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import blake2b
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from barm.errors import UserError
from barm.processes import exists, place
from barm.reading import check_target

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_TEMPORARY = re.compile(r"(?P<stem>\..*\.[0-9a-f]{8}-)(?P<pid>[0-9]+)-[0-9a-f]{8}\.tmp", re.DOTALL)
NAME = 200  # bytes of a name to which an ending is added; file systems take 255
WAIT = 30.0  # seconds for another process that writes the same file


def save_pickled(path: Path, value: dict[str, Any]) -> None:
    """Call `torch.save`, completely or not at all.

    A full disk raises `OSError`; `torch.save` alone raises RuntimeError.
    """
    import torch  # here, since processes without it write files too

    content = BytesIO()
    torch.save(value, content)
    write_atomically(path, content.getbuffer())


def write_atomically(path: Path, content: bytes | memoryview, *, flush: bool = True) -> None:
    """Write a temporary file and rename it into place.

    Without `flush` it is faster, but a loss of power may still destroy the file.

    Raises:
        UserError: if a device, a pipe or a folder is in its place, or another process does not finish writing it.
    """
    check_target(path)
    beside = path.with_name(path.name + ".tmp")
    with _opened_alone(beside, path) as file:
        try:
            file.write(content)
            file.flush()
            if flush:
                sync(beside)
            if fcntl is None:  # Windows renames no open file
                file.close()
            beside.replace(path)
        except BaseException:
            with suppress(OSError):
                if fcntl is None:  # nor does it remove one
                    file.close()
                beside.unlink()
            raise


@contextmanager
def _opened_alone(beside: Path, path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file, emptied, that no other process writes at the same time: a lock on it ends with it.

    What a killed process has left is taken over, unless it has another name elsewhere. A file system without locks goes
    without.
    """
    deadline = time.monotonic() + WAIT
    while True:
        with suppress(FileNotFoundError):
            left = beside.lstat()
            if not stat.S_ISREG(left.st_mode) or left.st_nlink > 1:
                beside.unlink()  # writing into a pipe would wait for ever, and into a link change another file
        try:
            file = beside.open("ab")
        except PermissionError:
            if not beside.exists():
                raise
            beside.unlink()  # another user's, who was killed
            continue
        if fcntl is None or (_locked(file) and _is_open(beside, file)):
            break
        file.close()
        if time.monotonic() > deadline:
            raise UserError(f"{path} is being written by another process: wait for it, or choose another name")
        time.sleep(0.01)
    with file:
        file.truncate(0)
        yield file


def _locked(file: BinaryIO) -> bool:
    """Lock a file; false if another process has."""
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system that has no locks
        return True
    return True


def _is_open(path: Path, file: BinaryIO) -> bool:
    """Whether a path still leads to an open file, and not to one that another process has made."""
    try:
        return os.path.samestat(path.lstat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


@contextmanager
def temporary(path: Path, *, folder: bool = False) -> Iterator[Path]:
    """An empty file or folder beside `path`, to be filled and renamed; at the end it is removed if it was not.

    No other process has it. What a killed process has left for the same path is removed first, if it was one of this
    machine and, on Linux, of this container; nobody else can know that it was killed.
    """
    remove_left(path)
    beside = path.with_name(f"{_stem(path)}{os.getpid()}-{secrets.token_hex(4)}.tmp")
    beside.mkdir(parents=True) if folder else beside.touch(exist_ok=False)
    try:
        yield beside
    finally:
        _remove(beside)


def is_temporary(path: Path) -> bool:
    """Whether this is the name of a temporary file or folder, of this process or another.

    >>> is_temporary(Path("data/.cars.5b3c0d1e-4711-0f3a9c21.tmp")), is_temporary(Path("data/.cars.tmp"))
    (True, False)
    """
    return _TEMPORARY.fullmatch(path.name) is not None


def remove_left(path: Path) -> None:
    """Remove temporary files and folders for this path of processes of this machine that are no more."""
    stem = _stem(path)
    for left in path.parent.glob(f"{glob.escape(stem)}*.tmp"):
        found = _TEMPORARY.fullmatch(left.name)
        if found is not None and found["stem"] == stem and not exists(int(found["pid"])):
            _remove(left)


def _stem(path: Path) -> str:
    """How the names of this machine's temporary files and folders for a path begin."""
    here = blake2b(place().encode(), digest_size=4).hexdigest()
    short = len(os.fsencode(path.name)) <= NAME
    return f".{path.name if short else blake2b(os.fsencode(path.name), digest_size=8).hexdigest()}.{here}-"


def _remove(path: Path) -> None:
    with suppress(OSError):
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() and not path.is_symlink() else path.unlink()


def sync(path: Path) -> None:
    """Flush a file, or on Unix a folder, to the disk. Windows cannot open folders, and flushes only writable files."""
    if os.name == "nt" and path.is_dir():
        return
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_present(path: Path) -> None:
    """Flush a file to the disk, if there is one."""
    if path.is_file():
        sync(path)


def as_json(value: Any, indent: int | None = 1) -> bytes:
    """A JSON file's content."""
    return (json.dumps(value, indent=indent) + "\n").encode()


def linked(file: Path, target: Path) -> None:
    """Link the file under another name, or copy it if the file system has no hard links to it.

    Raises:
        FileExistsError: if there is a file of that name; it may be a link to one that must not change.
    """
    try:
        target.hardlink_to(file.resolve())
    except FileExistsError:
        raise
    except (OSError, NotImplementedError):
        shutil.copyfile(file, target)
