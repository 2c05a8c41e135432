"""Names that people chose, made safe for where they are written: one function per language, used wherever one is.

HTML is not here: the pages' templates escape by themselves, and `html.escape` does the rest.
"""

from __future__ import annotations

import re
import shlex
import unicodedata
from collections.abc import Iterable

from rich.markup import escape as markup

__all__ = ["command", "csv_cell", "latex", "markdown", "markup", "normal", "word"]

_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    **{c: "\\" + c for c in "&%$#_{}"},
}
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # with which a spreadsheet begins a formula


def latex(text: str) -> str:
    r"""Text in LaTeX's text mode.

    >>> print(latex("50 % of {a_b}"))
    50 \% of \{a\_b\}
    """
    return "".join(_LATEX.get(character, character) for character in _one_line(text))


def markdown(text: str) -> str:
    r"""Text in a cell of a Markdown table: neither an end of the cell, nor emphasis, a link, code or HTML.

    >>> print(markdown("a|b *c* <d>"))
    a\|b \*c\* &lt;d>
    """
    text = _one_line(text).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\|*_`\[\]])", r"\\\1", text)


def csv_cell(text: str) -> str:
    """Text in a CSV file that a spreadsheet may open: what would be a formula there becomes text by an apostrophe.

    >>> csv_cell("=1+1"), csv_cell("cat")
    ("'=1+1", 'cat')
    """
    return f"'{text}" if text.startswith(_FORMULA) else text


def word(text: object) -> str:
    """One word of a shell's command line.

    >>> word("a dog's bed"), word("runs/a")
    ('\\'a dog\\'"\\'"\\'s bed\\'', 'runs/a')
    """
    return shlex.quote(str(text))


def command(words: Iterable[object]) -> str:
    """A command line that a reader may copy into a shell.

    >>> command(["barm", "report", "my run"])
    "barm report 'my run'"
    """
    return " ".join(map(word, words))


def normal(text: str) -> str:
    """Text in Unicode's composed form: macOS writes an accent behind its letter, keyboards write one sign."""
    return unicodedata.normalize("NFC", text)


def _one_line(text: str) -> str:
    return " ".join(text.splitlines()) if len(text.splitlines()) > 1 else text
