"""Class names from ``classes.txt``. An ambiguous file is refused, never guessed at."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from barm.data.palette import Palette, id_palette
from barm.data.text import composed_text
from barm.errors import UserError
from barm.escaping import normal
from barm.labels import IGNORE

LARGEST = 1 << 20  # bytes of a file with the names of all classes
MOST = 254  # ids 1..254; 255 is ignored
BACKGROUND = ("background", "unlabeled", "unlabelled")  # that a first line may say: id 0
IGNORED = ("ignore", "ignored", "void")  # that a number of 255 may carry
UNCLEAR = (*IGNORED, "none", "null", "other", "others", "unknown", "bg", "nothing")  # id 0, or a class?
HEADERS = {"id", "ids", "index", "name", "names", "class", "classes", "label", "labels", "category", "value"}
_BEFORE = re.compile(r"(\d{1,9})\s*[:.,;)=\s]\s*(\S.*)")  # 1: cat
_AFTER = re.compile(r"(\S.*?)\s*[:,;=]\s*(\d{1,9})")  # cat: 1
_BEHIND = re.compile(r"(\S.*?)\s+(\d{1,9})")  # cat 1, which may be a name
_COLOURS = re.compile(r".*\d+\s*,\s*\d+\s*,\s*\d+\D*")
_CODE = re.compile(r"\[\s*([\"'\[{]|$)|\{\s*([\"']|$)|<[?!]")  # JSON, XML
Line = tuple[int, str]  # number in the file, text


def names_and_colours(
    root: Path, default: tuple[tuple[str, ...], Palette] | None, given: Sequence[str] = ()
) -> tuple[tuple[str, ...], Palette]:
    """Read class names, background first, from ``classes.txt``.

    Args:
        root: of the data set.
        default: names and colours where there is no such file.
        given: names of the ids 1, 2, ... where there is no such file; these come first.

    Raises:
        UserError: if there are none, or too many, or one twice, or it is not clear which name belongs to which id.
    """
    path = root / "classes.txt"
    if path.is_file():
        return ("background", *parse_classes(composed_text(path, LARGEST), path)), id_palette()
    if given:
        lines = [(i, normal(name)) for i, name in enumerate(given, 1)]
        lines = lines[1:] if plain(lines[0][1]) == "background" else lines
        return ("background", *_checked(lines, Path("data.names"))), id_palette()
    if default is not None:
        return default
    raise UserError(f"no file {path}: expected the class names, one per line, in the order of the ids 1, 2, ...")


def parse_classes(text: str, path: Path) -> tuple[str, ...]:
    """Parse the text of a ``classes.txt`` into the names of the ids 1, 2, ....

    One name per line; line 1 is id 1, unless it names the background (``background``, ``_background_``,
    ``unlabeled``, or LabelMe's ``__ignore__`` and then ``_background_``). All lines may carry their ids (``1: cat``,
    ``cat: 1``). Lines that begin with ``# `` and empty lines at the end do not count.

    Args:
        text: of the file.
        path: for messages.

    Raises:
        UserError: where two readings would give other ids to the names.

    >>> parse_classes("_background_\\ncat\\ndog\\n", Path("classes.txt"))
    ('cat', 'dog')
    >>> parse_classes("0: background\\n2: dog\\n1: cat", Path("classes.txt"))
    ('cat', 'dog')
    """
    lines = _lines(text, path)
    if not lines:
        raise UserError(f"{path}: expected 1 to {MOST} different class names, found 0")
    if _CODE.match(lines[0][1]) or all(_COLOURS.fullmatch(line) for _, line in lines):
        raise UserError(f"{path}:{lines[0][0]}: expected one class name per line, found '{lines[0][1]}'")
    numbered = _numbered(lines, path)
    if numbered is not None:
        return _checked(numbered, path)
    return _checked(_without_background(lines, path), path)


def plain(name: str) -> str:
    """Normalise a name for comparison with the names of the background: ``__Background__`` -> ``background``."""
    return name.lower().strip("_-<>[]() ")


def special_id(name: str) -> int | None:
    """The id of a name that stands for the background (0) or for ignored pixels (255); None for a class.

    >>> special_id("_unlabeled_"), special_id("__ignore__"), special_id("cat")
    (0, 255, None)
    """
    word = plain(name)
    return 0 if word in BACKGROUND else IGNORE if word in IGNORED else None


def _lines(text: str, path: Path) -> list[Line]:
    """The lines that hold names; an ambiguous line is refused."""
    lines = [(i, line.strip()) for i, line in enumerate(re.split(r"\r\n|\r|\n", text), 1)]
    lines = [(i, line) for i, line in lines if line != "#" and not re.match(r"#\s", line)]
    while lines and not lines[-1][1]:
        lines.pop()
    for i, line in lines:
        if not line:
            raise UserError(f"{path}:{i} is empty: is that an id without a name? remove the line, or name the class")
        if line.startswith("#") or re.search(r"\s#", line):
            raise UserError(
                f"{path}:{i}: '{line}' may be a name or hold a comment: begin comments with '# ' on a line of their own"
            )
    return lines


def _numbered(lines: Sequence[Line], path: Path) -> list[Line] | None:
    """The lines ordered by the ids in front of the names, without background; None if they have none."""
    head = lines[0]
    for pattern, place, name in ((_BEFORE, 1, 2), (_AFTER, 2, 1)):
        found = [pattern.fullmatch(line) for _, line in lines]
        carried = sum(m is not None for m in found)
        if carried == len(lines):
            parts = ((m, i) for m, (i, _) in zip(found, lines, strict=True) if m is not None)
            return _by_number([(int(m[place]), i, m[name]) for m, i in parts], path)
        if found[0] is None and carried == len(lines) - 1 > 1 and plain(head[1]) in BACKGROUND:
            return _numbered(lines[1:], path)
        if carried > 1 and 2 * carried > len(lines):
            i, odd = next(line for line, m in zip(lines, found, strict=True) if m is None)
            heading = " (a heading?)" if set(re.split(r"\W+", odd.lower())) & HEADERS else ""
            raise UserError(
                f"{path}:{i}: '{odd}' carries no id, but {carried} of {len(lines)} lines do{heading}: give one name "
                "per line without numbers, or a number to each"
            )
    return _numbered_behind(lines, path)


def _numbered_behind(lines: Sequence[Line], path: Path) -> list[Line] | None:
    """The same for ids that a space separates from the names; otherwise ``grade 1`` and ``grade 2`` are names."""
    counted = [(i, m) for i, m in ((i, _BEHIND.fullmatch(line)) for i, line in lines) if m is not None]
    names, numbers = {m[1] for _, m in counted}, [int(m[2]) for _, m in counted]
    if len(counted) == len(lines) and numbers[0] == 0 and plain(counted[0][1][1]) in BACKGROUND:
        return _by_number([(int(m[2]), i, m[1]) for i, m in counted], path)
    every = [line for line in lines if line != lines[0] or plain(line[1]) not in BACKGROUND]
    if len(counted) == len(every) > 1 and len(names) == len(counted) and numbers == list(range(1, len(counted) + 1)):
        i, m = counted[0]
        raise UserError(
            f"{path}:{i}: is the number in '{m[0]}' an id? write '{m[2]}: {m[1]}' if it is, else leave it out"
        )
    return None


def _by_number(entries: Sequence[tuple[int, int, str]], path: Path) -> list[Line]:
    """Order entries of (id, line number, name) by the ids 1, 2, ...."""
    ids: dict[int, tuple[int, str]] = {}
    for number, i, name in entries:
        if number in ids:
            raise UserError(
                f"{path}:{i}: '{name}' has the id {number}, as line {ids[number][0]} has: give each its own"
            )
        ids[number] = (i, name)
    if 255 in ids and plain(ids[255][1]) in (*IGNORED, *BACKGROUND):
        del ids[255]
    if 0 in ids:
        i, name = ids.pop(0)
        if plain(name) not in (*BACKGROUND, *UNCLEAR):
            raise UserError(
                f"{path}:{i} gives the id 0 to '{name}', but in masks 0 is background: add 1 to all ids, here and in "
                "the masks (255 stays), and put '0: background' here"
            )
    missing = sorted(set(range(1, len(ids) + 1)) - set(ids))
    if missing:
        raise UserError(
            f"{path} has no name for the id {missing[0]}: expected the ids 1 to {len(ids)}, each once, found up to "
            f"{max(ids)}"
        )
    return [ids[number] for number in sorted(ids)]


def _without_background(lines: Sequence[Line], path: Path) -> list[Line]:
    """Drop a first line that names the background."""
    i, first = lines[0]
    head = _AFTER.fullmatch(first) or _BEHIND.fullmatch(first)
    tail = _BEFORE.fullmatch(first)
    if head is not None and int(head[2]) == 0 and plain(head[1]) in BACKGROUND:
        first = head[1]
    elif tail is not None and int(tail[1]) == 0 and plain(tail[2]) in BACKGROUND:
        first = tail[2]
    word = plain(first)
    if word in BACKGROUND:
        return list(lines[1:])
    if word == "ignore" and first.startswith("_"):  # LabelMe counts from -1
        if len(lines) > 1 and plain(lines[1][1]) == "background":
            return list(lines[2:])
        raise UserError(
            f"{path}:{i} is '{first}', which LabelMe follows by '_background_' for the id 0: write it below"
        )
    if word in UNCLEAR:
        raise UserError(
            f"{path}:{i} is '{first}', which may be the id 0 or the first class: write 'background' in its place if it "
            "is 0, above it if it is class 1"
        )
    return list(lines)


def _checked(lines: Sequence[Line], path: Path) -> tuple[str, ...]:
    """Check names: all different, not too many, and none of them the background's."""
    seen: dict[str, int] = {}
    for i, name in lines:
        if plain(name) == "background":
            raise UserError(f"{path}:{i} is '{name}', which is the id 0: it stands in line 1 or nowhere")
        if any(ord(c) < 32 or 127 <= ord(c) < 160 for c in name):
            raise UserError(f"{path}:{i} holds a tab or another control character: expected a class name, {name!r}")
        if name in seen:
            raise UserError(f"{path}:{i}: '{name}' stands in line {seen[name]} too: expected different class names")
        seen[name] = i
    if not 1 <= len(seen) <= MOST:
        raise UserError(f"{path}: expected 1 to {MOST} different class names, found {len(seen)}")
    return tuple(seen)
