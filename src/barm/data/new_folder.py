"""A folder that is there with everything in it, or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from barm.errors import UserError


@contextmanager
def new_folder(root: Path) -> Iterator[Path]:
    """A hidden folder beside `root` to write into, which takes its place at the end.

    After an error, or a stop, nothing is at `root`. An empty folder there is filled.

    Raises:
        UserError: if `root` holds something, or is a file.
    """
    root = Path(os.path.abspath(root))
    there = root.exists()
    if there and (not root.is_dir() or any(root.iterdir())):
        raise UserError(f"{root} is there already: choose a new folder")
    beside = root / f".{os.getpid()}.tmp" if there else root.with_name(f".{root.name}.{os.getpid()}.tmp")
    try:
        beside.mkdir(parents=True)
        yield beside
        if hasattr(os, "sync"):  # not on Windows
            os.sync()  # a loss of power may not leave names without their contents
        _move(beside, root)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise


def _move(beside: Path, root: Path) -> None:
    """Move a finished folder to its place, or its content into an empty folder that is there.

    Raises:
        UserError: if another process has filled that meanwhile; its files are left alone.
    """
    taken = UserError(f"{root} has been written by another process meanwhile: choose a new folder")
    if not root.is_dir():
        try:
            beside.replace(root)
        except OSError:
            if root.is_dir():
                raise taken from None
            raise
        return
    moved = list[Path]()
    try:
        for entry in sorted(beside.iterdir()):
            if os.path.lexists(root / entry.name):
                raise taken
            moved.append(entry.replace(root / entry.name))
        beside.rmdir()
    except BaseException:
        for path in moved:
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
        raise
