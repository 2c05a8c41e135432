"""Text files that people write: lists of names, class names. UTF-8 or UTF-16, with or without a byte order mark."""

from __future__ import annotations

import codecs
from pathlib import Path

from barm.errors import UserError
from barm.escaping import normal

_MARKS = (  # the longer first: UTF-32's begins with UTF-16's
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read_text(path: Path) -> str:
    """The text of a file, without its byte order mark, in Unicode's composed form.

    Raises:
        UserError: if it is no regular file, cannot be read, or is neither UTF-8 nor UTF-16 with its mark.
    """
    if not path.is_file():
        raise UserError(f"no file {path}: expected a text file there")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): restore the file or its permissions") from None
    encoding = next((name for mark, name in _MARKS if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(
            f"{path} is not UTF-8 text ({error.reason} at byte {error.start}, line {line}): save it as UTF-8"
        ) from None
    if "\0" in text:
        raise UserError(f"{path} is not text (it holds null bytes): save it as UTF-8")
    return normal(text)


def read_lines(path: Path) -> list[str]:
    """Lines of a list file that are not empty, without white space around them.

    Raises:
        UserError: as `read_text`.
    """
    if not path.is_file():
        raise UserError(f"no file {path}: expected a list with one name per line")
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]
