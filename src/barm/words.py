"""Wording of numbers and names in sentences: singular or plural, a few names or their number."""

from __future__ import annotations

import re
from collections.abc import Sequence

TOLD = 3  # names in a row
_SINGULAR = {"classes": "class", "losses": "loss", "batches": "batch", "boxes": "box", "processes": "process"}
_VERBS = {"are": "is", "have": "has", "do": "does", "were": "was", "hold": "holds"}


def count(number: int, what: str) -> str:
    """A number with its noun; the noun is given in the plural.

    >>> count(1, "masks"), count(2, "masks"), count(1, "classes"), count(1, "validation images")
    ('1 mask', '2 masks', '1 class', '1 validation image')
    """
    return f"{number} {noun(number, what)}"


def natural(text: str) -> int | None:
    """The number that a text is: at most nine digits of ASCII, else None. Python's own readers differ on what is one.

    >>> natural("007"), natural("-1"), natural("\u00b2"), natural("9" * 5000)
    (7, None, None, None)
    """
    return int(text) if re.fullmatch(r"[0-9]{1,9}", text) else None


def noun(number: int, what: str) -> str:
    """The form of a noun that fits a number; the noun is given in the plural.

    >>> noun(1, "steps"), noun(0, "steps"), noun(1, "processes")
    ('step', 'steps', 'process')
    """
    if number != 1:
        return what
    *before, last = what.split(" ")
    return " ".join([*before, _SINGULAR.get(last, last.removesuffix("s"))])


def verb(number: int, plural: str) -> str:
    """The form of a verb that fits a number.

    >>> verb(1, "have"), verb(2, "have"), verb(1, "are")
    ('has', 'have', 'is')
    """
    return _VERBS[plural] if number == 1 else plural


def listed(names: Sequence[str], what: str = "classes") -> str:
    """A few names, or how many they are.

    >>> listed(["cat", "dog"]), listed(["cat"] * 5)
    ('cat, dog', '5 classes')
    """
    return ", ".join(names) if len(names) <= TOLD else count(len(names), what)


def step_title(index: int, number: int) -> str:
    """Name a step of a task; the single step of a task has no number.

    >>> step_title(1, 6), step_title(0, 1)
    ('step 1 of 5', 'the only step')
    """
    return "the only step" if number == 1 else f"step {index} of {number - 1}"


def duration(seconds: float) -> str:
    """A duration in the largest unit that is exact enough.

    >>> duration(42), duration(95), duration(754), duration(7500)
    ('42 s', '95 s', '13 min', '2 h 5 min')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
