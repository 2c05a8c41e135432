"""A folder that is there with everything in it, or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from barm.errors import UserError
from barm.writing import is_temporary, remove_left, temporary


@contextmanager
def new_folder(root: Path, *, flush: bool = True) -> Iterator[Path]:
    """A hidden folder beside `root` to write into, which takes its place at the end.

    After an error, or a stop, nothing is at `root`. An empty folder there is filled, and so is one with nothing but
    what another process, or a killed one, writes in the same way.

    Args:
        root: the folder.
        flush: a loss of power may not leave names without their contents.

    Raises:
        UserError: if `root` holds something, or is a file.
    """
    root = Path(os.path.abspath(root))
    there = root.exists()
    if there and (not root.is_dir() or any(not is_temporary(entry) for entry in root.iterdir())):
        raise UserError(f"{root} is there already: choose a new folder")
    remove_left(root)
    with temporary(root / "new" if there else root, folder=True) as beside:
        yield beside
        if flush and hasattr(os, "sync"):  # not on Windows
            os.sync()
        _move(beside, root)


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
