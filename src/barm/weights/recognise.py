"""Recognise what a file or folder of weights is, and say in one line what barm can do with it.

Names and shapes are read, never the tensors, and nothing in a file is executed: the size of a file does not matter, and
neither does who wrote it. torch is not loaded.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from barm.errors import UserError, nearest
from barm.escaping import word
from barm.reading import Unfit, short
from barm.weights.checkpoints import SAVED, kind_of_checkpoint
from barm.weights.containers import open_contents
from barm.weights.folders import kind_of_folder
from barm.weights.kind import Kind

__all__ = ["Kind", "check_usable", "recognise"]
LONGEST = 320  # characters of a name


def recognise(path: Path | str) -> Kind:
    """What a file or folder is.

    Args:
        path: of a checkpoint, or of the folder in which a library saved one.

    Returns:
        Its kind. What is missing, damaged or unknown has a kind, too.
    """
    path = Path(path)
    kind = _kind(path)
    return replace(kind, name=_plain(kind.name), advice=_plain(kind.advice).replace("{path}", word(path)))


def check_usable(path: Path | str) -> None:
    """Refuse a path that no command takes as a trained network, with the line that says what it is.

    What does not exist, a run, a folder that may hold one, and barm's own file pass: their reader says more.

    Raises:
        UserError: for a foreign file or folder.
    """
    path = Path(path)
    if not os.path.lexists(path):
        return
    kind = recognise(path)
    passes = kind.use == "open" or kind.family in ("run", "folder") or (kind.family == "barm-file" and path.is_file())
    if not passes:
        raise UserError(kind.line(path))


def _plain(text: str) -> str:
    """Text from a stranger's file in one line of limited length, without control characters."""
    line = "".join(c if c.isprintable() else " " for c in text)
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 3]}..."


def _beside(path: Path) -> str:
    """A hint to a mistyped path; empty if nothing of a similar name lies beside it."""
    try:
        return nearest(path.name, os.listdir(path.parent))
    except OSError:
        return ""


def _kind(path: Path) -> Kind:
    try:
        if path.is_dir():
            return kind_of_folder(path)
        contents = open_contents(path)
    except FileNotFoundError:
        return Kind("missing", "no file or folder", f"check the path{_beside(path)}")
    except Unfit as error:
        return Kind("unreadable", f"no checkpoint: it {error.what}", "give a file or a folder")
    except OSError as error:
        return Kind("unreadable", f"a file that cannot be read ({error.strerror})", "check its permissions")
    if isinstance(contents, Kind):
        return contents
    try:
        kind = kind_of_checkpoint(contents)
    except Exception as error:  # whatever a stranger may have written
        return Kind("unknown", f"a checkpoint of a form that barm does not know ({short(error, 60)})", SAVED)
    if kind.family in ("smp-state", "transformers-state") and (path.parent / "config.json").is_file():
        return replace(kind, advice=f"give the folder that it lies in: {word(path.parent)}")
    return kind
