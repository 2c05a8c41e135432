"""Read text files that people write: lists of names, class names."""

from __future__ import annotations

from pathlib import Path

from barm import reading
from barm.errors import UserError
from barm.escaping import normal


def composed_text(path: Path, limit: int | None = reading.TEXT_LIMIT) -> str:
    """Read the text of a file, without its byte order mark, in Unicode's composed form.

    Args:
        path: of the file.
        limit: largest size in bytes.

    Raises:
        UserError: if it is no regular file, cannot be read, or is neither UTF-8 nor UTF-16 with its mark.
    """
    try:
        return normal(reading.read_text(path, limit))
    except FileNotFoundError:
        raise UserError(f"no file {path}: expected a text file there") from None


def read_lines(path: Path) -> list[str]:
    """Read the lines of a list file that are not empty, without white space around them.

    Raises:
        UserError: as `composed_text`.
    """
    if not path.exists():
        raise UserError(f"no file {path}: expected a list with one name per line")
    return [line.strip() for line in composed_text(path).splitlines() if line.strip()]
