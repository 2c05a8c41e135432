"""Class names that tell left from right. Flipping an image swaps the two sides, but not the classes in its mask."""

from __future__ import annotations

import re
from collections.abc import Sequence

from barm.data.mask_values import listing

WORDS = (  # the left one, the right one; a name with such a word is sided even where its counterpart is missing
    ("left", "right"),
    ("links", "rechts"),
    ("linke", "rechte"),
    ("linker", "rechter"),
    ("linkes", "rechtes"),
    ("gauche", "droite"),
    ("gauche", "droit"),
    ("izquierda", "derecha"),
    ("izquierdo", "derecho"),
)
LETTERS = (  # sides only where both names of a pair are there
    ("l", "r"),
    ("lh", "rh"),
    ("fl", "fr"),
    ("bl", "br"),
    ("rl", "rr"),
    ("li", "re"),
)
_TOKENS = re.compile(r"[\W_]+|(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Za-z])(?=\d)|(?<=\d)(?=[A-Za-z])")


def sided(names: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Pairs of names that differ by left and right, and single names with such a word, in the order of `names`.

    Args:
        names: of the classes.

    >>> sided(["left_mirror", "hood", "right_mirror", "door L", "door R", "left_light"])
    (('left_mirror', 'right_mirror'), ('door L', 'door R'), ('left_light',))
    >>> sided(["bright light", "copyright", "L", "car"])
    ()
    """
    by_key = {_tokens(name): name for name in names}
    by_text = {name.lower(): name for name in names}
    found: dict[str, tuple[str, ...]] = {}
    for name in names:
        if name in found:
            continue
        other = _counterpart(name, by_key, by_text)
        if other is not None:
            found[name] = found[other] = (name, other)
        elif {word for pair in WORDS for word in pair} & set(_tokens(name)):
            found[name] = (name,)
    return tuple(dict.fromkeys(found[name] for name in names if name in found))


def flip_warning(names: Sequence[str], tables: Sequence[str]) -> str | None:
    """Warn of class names that a horizontal flip mixes up, in one line; None if there are none.

    Args:
        names: of the classes.
        tables: of the configuration in which ``flip`` is above 0.
    """
    told = _told(names)
    if told is None or not tables:
        return None
    setting = " ".join(f"--set {table}.flip=0" for table in tables)
    return f"{told}, and training mirrors images without exchanging the classes: turn it off with {setting}"


def mirror_warning(names: Sequence[str]) -> str | None:
    """Warn of class names that flipping at prediction mixes up, in one line; None if there are none."""
    told = _told(names)
    return None if told is None else f"{told}, and --flip averages them with each other: leave --flip out"


def _told(names: Sequence[str]) -> str | None:
    groups = sided(names)
    if not groups:
        return None
    shown = listing("/".join(map(repr, group)) for group in groups[:3])
    more = f" (and {len(groups) - 3} more)" if len(groups) > 3 else ""
    one = len(groups) == 1 and len(groups[0]) == 1
    return f"the class {'name' if one else 'names'} {shown}{more} {'tells' if one else 'tell'} left from right"


def _counterpart(name: str, by_key: dict[tuple[str, ...], str], by_text: dict[str, str]) -> str | None:
    """The name with left and right exchanged, if it is among the names."""
    tokens = _tokens(name)
    for pair in (*WORDS, *LETTERS):
        swap = {pair[0]: pair[1], pair[1]: pair[0]}
        swapped = tuple(swap.get(token, token) for token in tokens)
        other = by_key.get(swapped) if swapped != tokens else None
        if other is not None:
            return other
    for left, right in WORDS[:1]:  # written in one word
        for one, two in ((left, right), (right, left)):
            other = by_text.get(name.lower().replace(one, two)) if one in name.lower() else None
            if other is not None:
                return other
    return None


def _tokens(name: str) -> tuple[str, ...]:
    """Split a name into words: ``frontLeft_door 2`` -> ``front``, ``left``, ``door``, ``2``."""
    return tuple(token.lower() for token in _TOKENS.split(name) if token)
