"""Write files of a run completely or not at all, even if the power fails."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from barm.reading import check_target

if TYPE_CHECKING:
    from torch import Tensor


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
        UserError: if a device, a pipe or a folder is in its place.
    """
    check_target(path)
    beside = path.with_name(path.name + ".tmp")
    beside.unlink(missing_ok=True)  # whatever lay there: writing into a pipe would wait for ever
    try:
        beside.write_bytes(content)
        if flush:
            sync(beside)
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


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
