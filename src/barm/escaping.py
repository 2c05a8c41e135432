"""Make names that users chose safe for where they are written, with one function per language.

HTML is not here: the pages' templates escape by themselves, and `html.escape` does the rest.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape as markup

__all__ = [
    "command",
    "csv_cell",
    "latex",
    "markdown",
    "markup",
    "names",
    "normal",
    "place",
    "placeless",
    "places",
    "word",
]

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
    r"""Escape text for LaTeX's text mode.

    >>> print(latex("50 % of {a_b}"))
    50 \% of \{a\_b\}
    """
    return "".join(_LATEX.get(character, character) for character in _one_line(text))


def markdown(text: str) -> str:
    r"""Escape text for a cell of a Markdown table: no end of the cell, emphasis, link, code or HTML.

    >>> print(markdown("a|b *c* <d>"))
    a\|b \*c\* &lt;d>
    """
    text = _one_line(text).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\|*_`\[\]])", r"\\\1", text)


def csv_cell(text: str) -> str:
    """Escape text for a CSV file: an apostrophe keeps a spreadsheet from reading it as a formula.

    >>> csv_cell("=1+1"), csv_cell("cat")
    ("'=1+1", 'cat')
    """
    return f"'{text}" if text.startswith(_FORMULA) else text


def word(text: object) -> str:
    """Quote one word of a shell's command line.

    >>> word("a dog's bed"), word("runs/a")
    ('\\'a dog\\'"\\'"\\'s bed\\'', 'runs/a')
    """
    return shlex.quote(str(text))


def command(words: Iterable[object]) -> str:
    """Join words to a command line that can be copied into a shell.

    >>> command(["barm", "report", "my run"])
    "barm report 'my run'"
    """
    return " ".join(map(word, words))


def names(words: Sequence[str]) -> str:
    """Class names as one word of a command line, in the form that ``--classes`` and ``--group`` take.

    >>> print(names(["cat", "hot dog"]), names(["a, b", "c"]))
    'cat,hot dog' '["a, b", "c"]'
    """
    plain = all(w == w.strip() and w and "," not in w and w[0] not in "-@[" for w in words)
    return word(",".join(words) if plain else json.dumps(list(words), ensure_ascii=False))


def place(path: Path | str) -> str:
    """A path that does not reveal the machine: relative to the current folder, or the last name alone.

    >>> place("runs/a"), place(Path.cwd() / "runs/a"), place("/elsewhere/data")
    ('runs/a', 'runs/a', '.../data')
    """
    return places([path])[0]


def places(paths: Sequence[Path | str]) -> list[str]:
    """Several paths as `place` gives them, with as many names as it takes to tell them apart.

    >>> places(["runs/a", "/elsewhere/x/data", "/elsewhere/y/data"])
    ['runs/a', '.../x/data', '.../y/data']
    """
    here = Path.cwd()
    whole = [Path(os.path.abspath(path)) for path in paths]
    outside = list(dict.fromkeys(path for path in whole if not path.is_relative_to(here)))
    longest = max((len(path.parts) for path in outside), default=1)
    names = next(n for n in range(1, longest + 1) if len({path.parts[-n:] for path in outside}) == len(outside))
    return [
        str(path.relative_to(here)) if path.is_relative_to(here) else "/".join(["...", *path.parts[1:][-names:]])
        for path in whole
    ]


def placed(text: str, *paths: Path | str | None) -> str:
    """A text in which these paths are as `place` gives them.

    >>> placed("/elsewhere/data/masks is empty", "/elsewhere/data", None)
    '.../data/masks is empty'
    """
    for path in paths:
        if path is not None:
            text = text.replace(os.path.abspath(path), place(path)).replace(str(path), place(path))
    return text


def told_apart(values: Sequence[Any]) -> list[Any]:
    """Values of one setting for display: paths as `places` gives them, so that no two become alike.

    >>> told_apart(["/a/w.pth", "/b/w.pth", "/a/w.pth", None])
    ['.../a/w.pth', '.../b/w.pth', '.../a/w.pth', None]
    """
    paths = [value for value in values if _is_path(value)]
    short = dict(zip(paths, places(paths), strict=True))
    return [short[value] if _is_path(value) else placeless(value) for value in values]


def _is_path(value: Any) -> bool:
    return isinstance(value, Path) or (isinstance(value, str) and Path(value).is_absolute())


def placeless(value: Any) -> Any:
    """A table of settings, with its sub-tables, in which every absolute path is as `place` gives it.

    >>> placeless({"data": {"root": "/elsewhere/data", "names": ["a/b"]}})
    {'data': {'root': '.../data', 'names': ['a/b']}}
    """
    if isinstance(value, Mapping):
        return {name: placeless(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(placeless(inner) for inner in value)
    return place(value) if _is_path(value) else value


def normal(text: str) -> str:
    """Normalise text to Unicode's composed form.

    macOS writes an accent behind its letter; keyboards write one character.
    """
    return unicodedata.normalize("NFC", text)


def _one_line(text: str) -> str:
    return " ".join(text.splitlines()) if len(text.splitlines()) > 1 else text
