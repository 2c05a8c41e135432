"""Read the files of a run: each has a form, a checksum in ``checksums.json`` beside it, and an error that names it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from torch import Tensor

from barm.engine.checkpoint import checksums
from barm.engine.checkpoint.place import CONFIG
from barm.engine.checkpoint.schema import misfit
from barm.errors import UserError
from barm.reading import Unfit, read_json, read_safetensors

NEEDED = ("method.json", "model.safetensors")  # of every finished step


def value(path: Path, run: Path) -> Any:
    """Read a JSON file.

    Args:
        path: of the file.
        run: folder of the run.

    Raises:
        UserError: if it is missing, or it or its checksum is damaged.
    """
    try:
        found = read_json(path, limit=None)  # some have a line for every image
        wrong = misfit(path.name, found)
        if wrong is None:
            _check(path, run)
    except FileNotFoundError:
        raise _missing(path, run) from None
    except Unfit as error:
        raise damaged(error.path, error.what) from None
    if wrong is not None:
        raise damaged(path, f"it holds something else than barm wrote: {wrong}")
    return found


def tensors(path: Path, run: Path) -> dict[str, Tensor]:
    """Read a file of tensors.

    Args:
        path: of the file.
        run: folder of the run.

    Raises:
        UserError: if it is missing, or it or its checksum is damaged.
    """
    try:
        found = read_safetensors(path)
        _check(path, run)
    except FileNotFoundError:
        raise _missing(path, run) from None
    except Unfit as error:
        raise damaged(error.path, error.what) from None
    return found


def sums(folder: Path, run: Path | None) -> checksums.Sums:
    """The checksums of a folder's files; empty where there are none.

    Args:
        folder: of a step, finished or not, or of the run.
        run: folder of the run, by whose format they must be there; None where they need not be.

    Raises:
        UserError: if they are missing or damaged.
    """
    path = folder / checksums.CHECKSUMS
    if run is not None and not path.exists() and checksums.is_whole(run / CONFIG):
        raise UserError(
            f"{path} is missing, and without it no change of the files beside it is found: restore it, or remove the "
            f"first line of {run / CONFIG} to take them as they are"
        )
    try:
        return checksums.sums_of(folder)
    except Unfit as error:
        raise damaged(error.path, error.what) from None


def belongs(path: Path, run: Path) -> bool:
    """Whether there is a file, or a checksum of one that is lost.

    Raises:
        UserError: if the checksums are missing or damaged.
    """
    return path.name in sums(path.parent, run) or os.path.lexists(path)


def damaged(path: Path, what: str) -> UserError:
    """An error about a file of a run."""
    told = f"{path} is damaged ({what[:100]}): restore the file"
    if path.name == checksums.CHECKSUMS:
        return UserError(f"{told}, or remove it and the first line of {CONFIG} to take the files beside it as they are")
    return UserError(f"{told}, or train anew into another --out")


def _check(path: Path, run: Path) -> None:
    sums(path.parent, run)
    checksums.check(path)


def _missing(path: Path, run: Path) -> UserError:
    if path.name in NEEDED or path.name in sums(path.parent, run):
        return damaged(path, "it is missing")
    return UserError(f"{path} is missing: an imported step has none; train the step, or evaluate it by itself")
