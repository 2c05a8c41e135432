"""Write files of a run completely or not at all, even if the power fails."""

from __future__ import annotations

import json
import os
import shutil
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from barm.errors import UserError
from barm.reading import check_target

if TYPE_CHECKING:
    from torch import Tensor

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

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


def apart(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a state on the processor, without any that share memory, as tied weights do."""
    seen = set[int]()
    result: dict[str, Tensor] = {}
    for name, tensor in state.items():
        own = tensor.detach().cpu().contiguous()
        result[name] = own.clone() if own.untyped_storage().data_ptr() in seen else own
        seen.add(own.untyped_storage().data_ptr())
    return result


def linked(file: Path, target: Path) -> None:
    """Link the file under another name, or copy it if the file system has no hard links to it."""
    try:
        target.hardlink_to(file)
    except (OSError, NotImplementedError):
        shutil.copyfile(file, target)
