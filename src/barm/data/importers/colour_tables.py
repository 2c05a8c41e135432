"""Tables of colours and class names: CSV, label maps, JSON and ``classes.toml``.

Known forms: ``class_dict.csv`` (a header with name, r, g, b in any order, or with name and a colour), lines
``name,#rrggbb``, ``name,r,g,b`` or ``r g b name`` (CamVid's ``label_colors.txt``), CVAT's ``labelmap.txt``
(``name:r,g,b:parts:actions``), JSON ``{name: colour}`` or ``[{"name": ..., "color": ...}]``, and TOML ``[colours]``.
A colour is ``#rrggbb``, three numbers up to 255, or a name that matplotlib knows.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from barm.data.class_values import ClassValues, parse_colour, read_class_values
from barm.data.importers.annotations import Classes, ImportOptions
from barm.data.importers.source_tree import Tree
from barm.errors import UserError
from barm.reading import parse_json, read_text
from barm.words import count

LIMIT = 2**20  # bytes
SUFFIXES = (".csv", ".txt", ".json", ".toml")
NAME = ("name", "class", "label", "class_name", "classname", "label_name", "category")
COLOUR = ("colour", "color", "hex", "rgb", "color_rgb", "colour_rgb")
CHANNELS = (("r", "red"), ("g", "green"), ("b", "blue"))
CVAT_HEADER = "# label:color_rgb:parts:actions"
WRITE = "write a file with a line name,#rrggbb for each class and give it with --colours"
_MAP = re.compile(r"(?P<name>.*):(?P<colour>\d{1,3},\d{1,3},\d{1,3})?:[^:]*:[^:]*")
_AFTER = re.compile(
    r"(?P<name>.*?\S)\s*[,;\t:=]\s*(?P<colour>#[0-9a-f]{6}|\d{1,3}(?:\s*[,; \t]\s*\d{1,3}){2})", re.IGNORECASE
)
_BEFORE = re.compile(r"(?P<colour>\d{1,3}(?:\s*[,; \t]\s*\d{1,3}){2})\s*[,;:\s]\s*(?P<name>\S.*)")
Entry = tuple[str, str, int]  # name, colour, line; line 0 where there are none


def read_colour_table(path: Path) -> ClassValues:
    """Read a table of colours.

    Raises:
        UserError: if it is none, or gives a colour to two names.
    """
    if path.suffix.lower() == ".toml":
        values = read_class_values(path)
        if not values.colours:
            raise UserError(f"{path}: expected a table [colours], found [values]")
        return values
    try:
        text = read_text(path, LIMIT)
    except FileNotFoundError:
        raise UserError(f"no file {path}: {WRITE}") from None
    entries = _from_json(parse_json(text, path), path) if path.suffix.lower() == ".json" else _from_text(text, path)
    return values_of(entries, path)


def values_of(entries: Iterable[Entry], path: Path) -> ClassValues:
    """Make a table of names and colours.

    Raises:
        UserError: for a colour that is none, that two names have, or if no class is left.
    """
    classes, ids, lines = Classes(where=path), dict[int, int](), dict[int, str]()
    for name, text, line in entries:
        where = f"{path}:{line}" if line else f"{path}"
        text = text.strip(" ()[]")
        colour = parse_colour(text)
        colour = _named_colour(text) if colour is None else colour
        if colour is None:
            raise UserError(f"{where}: expected a colour such as #804080 or 128,64,128 for '{name}', found '{text}'")
        if lines.get(colour, name) != name:
            raise UserError(
                f"{where}: '{lines[colour]}' and '{name}' have one colour, #{colour:06x}: give each its own"
            )
        lines[colour], ids[colour] = name, classes.add(name)
    if not classes.names:
        raise UserError(f"{path}: expected at least one class besides background, found none")
    return ClassValues(classes.names, tuple(ids.items()), True, None, path)


def find_colour_table(tree: Tree, options: ImportOptions) -> ClassValues | None:
    """The table that is given with ``--colours``, or the one in the source; None if there is none.

    Raises:
        UserError: if there are several, or the given one is none.
    """
    if options.colours is not None:
        return read_colour_table(options.colours)
    found = colour_tables(tree)
    if len(found) > 1:
        first, second = list(found)[:2]
        raise UserError(f"{first} and {second} both hold colours of classes: say with --colours which of them is meant")
    return next(iter(found.values()), None)


def colour_tables(tree: Tree) -> dict[Path, ClassValues]:
    """All files of a source that are tables of colours."""
    found, _ = _tables(tree)
    return found


def faulty_tables(tree: Tree) -> list[str]:
    """Why files that may be meant as tables of colours are none, one line each."""
    _, faults = _tables(tree)
    return faults


def _tables(tree: Tree) -> tuple[dict[Path, ClassValues], list[str]]:
    found, faults = dict[Path, ClassValues](), list[str]()
    for place in tree.with_suffix(*SUFFIXES):
        path = tree.root / place
        if len(place.parts) <= 2 and path.stat().st_size <= LIMIT:
            try:
                found[path] = read_colour_table(path)
            except UserError as error:  # often a file of another kind
                if place.suffix.lower() in (".csv", ".toml") or "labelmap" in place.name.lower():
                    faults.append(str(error))
    return found, faults


def label_map(text: str, path: Path) -> ClassValues:
    """Read CVAT's ``labelmap.txt``.

    Raises:
        UserError: for a line of another form, or a name or colour that stands twice.
    """
    entries = list[Entry]()
    for i, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        found = _MAP.fullmatch(line.strip())
        if found is None or not found["colour"]:
            raise UserError(f"{path}:{i}: expected name:r,g,b:parts:actions, found '{line.strip()[:60]}'")
        if found["name"] in {name for name, _, _ in entries}:
            raise UserError(f"{path}:{i}: '{found['name']}' stands twice: give every class one line")
        entries.append((found["name"], found["colour"], i))
    return values_of(entries, path)


def source_values(values: ClassValues) -> dict[str, str]:
    """What stands for each class in the masks, by name, as `Annotations.values` has it."""
    names = {**dict(enumerate(values.names, 1)), 0: "background", 255: "ignore"}
    result = dict[str, str]()
    for value, class_id in values.ids:
        result.setdefault(names[class_id], values.written(value))
    return result


def _from_text(text: str, path: Path) -> list[Entry]:
    lines = [(i, line.strip()) for i, line in enumerate(text.splitlines(), 1)]
    lines = [(i, line) for i, line in lines if line and not re.match(r"#(\s|$)", line)]
    if not lines:
        raise UserError(f"{path}: expected lines name,#rrggbb, found none")
    if _MAP.fullmatch(lines[0][1]):
        return [(e["name"], e["colour"] or "", i) for i, line in lines for e in [_match(_MAP, line, i, path)]]
    headed = _from_csv(lines, path)
    if headed is not None:
        return headed
    pattern = _AFTER if _AFTER.fullmatch(lines[0][1]) else _BEFORE
    if pattern.fullmatch(lines[0][1]) is None:
        return [_named_entry(line, i, path) for i, line in lines]
    found = [(i, _match(pattern, line, i, path)) for i, line in lines]
    return [(m["name"], re.sub(r"[\s,;]+", ",", m["colour"]), i) for i, m in found]


def _match(pattern: re.Pattern[str], line: str, number: int, path: Path) -> re.Match[str]:
    found = pattern.fullmatch(line)
    if found is None:
        raise UserError(f"{path}:{number}: expected a name and a colour as in the first line, found '{line[:60]}'")
    return found


def _named_entry(line: str, number: int, path: Path) -> Entry:
    """A name and a colour, or its name, with a comma between them."""
    name, comma, colour = (part.strip() for part in line.rpartition(","))
    if not comma:
        raise UserError(f"{path}:{number}: expected name,#rrggbb, found '{line[:60]}'")
    return name, colour, number


def _from_csv(lines: Sequence[tuple[int, str]], path: Path) -> list[Entry] | None:
    """The entries of a table with a header; None if it has none."""
    delimiter = max(",;\t", key=lines[0][1].count)
    try:
        rows = list(csv.reader((line for _, line in lines), delimiter=delimiter, skipinitialspace=True))
    except csv.Error as error:  # a cell longer than the module takes
        raise UserError(f"{path}: expected a table of names and colours ({error})") from None
    head = [cell.strip().lower() for cell in rows[0]]
    name = next((head.index(word) for word in NAME if word in head), None)
    channels = [next((head.index(word) for word in words if word in head), None) for words in CHANNELS]
    colour = next((head.index(word) for word in COLOUR if word in head), None)
    if name is None or (colour is None and None in channels):
        return None
    columns = [c for c in channels if c is not None] if None not in channels else [colour or 0]
    entries = list[Entry]()
    for (i, line), row in zip(lines[1:], rows[1:], strict=False):
        if max(name, *columns) >= len(row):
            raise UserError(f"{path}:{i}: expected {count(len(head), 'columns')} as in the header, found '{line[:60]}'")
        entries.append((row[name].strip(), ",".join(row[c].strip() for c in columns), i))
    return entries


def _from_json(content: Any, path: Path) -> list[Entry]:
    if isinstance(content, list):
        pairs = [(_first(entry, NAME), _first(entry, COLOUR)) for entry in content if isinstance(entry, dict)]
        if len(pairs) < len(content):
            pairs = []
    else:
        pairs = list(content.items()) if isinstance(content, dict) else []
    entries = [(name, _json_colour(colour), 0) for name, colour in pairs if isinstance(name, str)]
    if not entries or len(entries) < len(pairs):
        raise UserError(f'{path}: expected {{"name": "#rrggbb", ...}}, found {str(content)[:60]}')
    return entries


def _first(entry: Mapping[str, Any], keys: Sequence[str]) -> Any:
    return next((entry[key] for key in keys if key in entry), None)


def _json_colour(colour: Any) -> str:
    if isinstance(colour, list) and len(colour) == 3 and all(type(c) is int for c in colour):
        return ",".join(map(str, colour))
    return colour if isinstance(colour, str) else str(colour)[:60]


def _named_colour(text: str) -> int | None:
    """A colour that matplotlib names, as 0xrrggbb, if it is exact in 8 bits; None for anything else."""
    if not re.fullmatch(r"[A-Za-z][\w:/ ]*", text.strip()) or text.strip().lower() == "none":
        return None
    from matplotlib.colors import to_rgb

    try:
        channels = [255 * channel for channel in to_rgb(text.strip())]
    except ValueError:
        return None
    exact = [round(channel) for channel in channels]
    if any(abs(one - other) > 1e-6 for one, other in zip(channels, exact, strict=True)):
        return None
    return exact[0] << 16 | exact[1] << 8 | exact[2]
