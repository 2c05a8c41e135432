"""The values or colours that stand for classes in masks, as ``classes.toml`` lists them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from barm.data.class_names import MOST, parse_classes, special_id
from barm.data.images import some_rows
from barm.data.mask_values import listing
from barm.errors import UserError
from barm.escaping import normal
from barm.labels import IGNORE
from barm.reading import Unfit, read_toml
from barm.words import natural

FILE = "classes.toml"
ORIGINAL = "source_classes.toml"  # beside it, or beside classes.txt: what an import found in the masks
HIGHEST = 2**16 - 1
UNKNOWN = 256  # no id
ADD = f"list it in {FILE}, or say there what others are"
_TEXT_COLOUR = re.compile(r"#?([0-9a-f]{6})|(\d{1,3})\s*[, ]\s*(\d{1,3})\s*[, ]\s*(\d{1,3})", re.IGNORECASE)


@dataclass(frozen=True)
class ClassValues:
    """What the values or colours of masks mean.

    Attributes:
        names: class names of the ids 1, 2, ....
        ids: id by value, or by colour as 0xrrggbb; 0 is background, 255 is ignored.
        colours: whether masks are in colour.
        other: id of all values that are not listed; None if there must be none.
        path: the file that says so.
    """

    names: tuple[str, ...]
    ids: tuple[tuple[int, int], ...]
    colours: bool
    other: int | None = None
    path: Path = Path(FILE)

    def to_ids(self, mask: NDArray[np.integer], where: Path) -> NDArray[np.uint8]:
        """Translate a mask's values ``(H, W)``, or its colours ``(H, W, 3)`` uint8, to ids ``(H, W)``.

        Raises:
            Unfit: for a value that is not listed, if there is no `other`.
        """
        ids = np.empty(mask.shape[:2], np.uint8)
        for rows in some_rows(*mask.shape[:2]):
            ids[rows] = self._translated(mask[rows], where)
        return ids

    def _translated(self, mask: NDArray[np.integer], where: Path) -> NDArray[np.uint8]:
        values, limit = (packed(mask.astype(np.uint8, copy=False)), 1 << 24) if self.colours else (mask, 1 << 16)
        if values.dtype.kind == "i" and values.size and (values.min() < 0 or values.max() >= limit):
            raise self._unlisted(values[(values < 0) | (values >= limit)], where)
        ids = _table(self.ids, self.other, limit)[values]
        if ids.size and ids.max() == UNKNOWN:
            raise self._unlisted(values[ids == UNKNOWN], where)
        return ids.astype(np.uint8)

    def _unlisted(self, values: NDArray[np.integer], where: Path) -> Unfit:
        strange = [self.written(int(v)) for v in np.unique(values)]
        what = "colour" if self.colours else "value"
        return Unfit(where, f"holds the {what} {listing(strange)}, which {self.path.name} does not list", ADD)

    def from_ids(self, ids: NDArray[np.uint8], names: tuple[str, ...]) -> Image.Image:
        """Write a mask of ids in these values or colours.

        Args:
            ids: ``(H, W)``.
            names: class names by id, background first; each as `missing` accepts it.

        Returns:
            An image of mode ``L``, ``I;16`` (where a value is above 255) or ``RGB``.
        """
        values = np.zeros(256, np.int64)
        values[: len(names)] = [self.value_of(name) for name in names]
        result = values[ids]
        if self.colours:
            channels = np.stack([result >> 16, (result >> 8) & 255, result & 255], axis=-1)
            return Image.fromarray(channels.astype(np.uint8))
        return Image.fromarray(result.astype(np.uint8 if values.max() < 256 else np.uint16))

    def missing(self, names: tuple[str, ...]) -> list[str]:
        """Those of some class names, background first, that have no value."""
        known = {*self.names, *(["background"] if 0 in dict(self.ids).values() else [])}
        return [name for name in ("background", *names[1:]) if name not in known]

    def written(self, value: int) -> str:
        """A value as ``classes.toml`` has it."""
        return f"#{value:06x}" if self.colours else str(value)

    def value_of(self, name: str) -> int:
        """The first value, or colour as 0xrrggbb, of a class or the background."""
        wanted = self.names.index(name) + 1 if name in self.names else 0
        return next(value for value, class_id in self.ids if class_id == wanted)


def read_class_values(path: Path) -> ClassValues:
    """Read a ``classes.toml``: a table ``[values]`` or ``[colours]`` of class names.

    The names have the ids 1, 2, ... in the order in which they first stand there; ``background`` has 0, ``ignore`` 255.
    Several values may have one name. ``other = "background"`` or ``"ignore"`` above the table says what all further
    values are; without it they are refused.

    Raises:
        UserError: for anything else in it.
    """
    try:
        table = read_toml(path)
    except FileNotFoundError:
        raise UserError(f"no file {path}: expected a table [values] or [colours] of class names") from None
    kinds = [kind for kind in ("values", "colours") if kind in table]
    strange = sorted(set(table) - {"values", "colours", "other"})
    if len(kinds) != 1 or strange or not isinstance(table[kinds[0]], dict) or not table[kinds[0]]:
        found = ", ".join(table) or "nothing"
        raise UserError(f"{path}: expected one table, [values] or [colours], and perhaps 'other', found {found}")
    entries = {_key(text, kinds[0] == "colours", path): _name(name, path) for text, name in table[kinds[0]].items()}
    if len(entries) < len(table[kinds[0]]):
        raise UserError(f"{path}: two lines of [{kinds[0]}] are for the same value: keep one of them")
    names = tuple(dict.fromkeys(name for name in entries.values() if name not in ("background", "ignore")))
    if not 1 <= len(names) <= MOST:
        raise UserError(f"{path}: expected 1 to {MOST} different class names, found {len(names)}")
    by_name = {"background": 0, "ignore": IGNORE, **{name: i for i, name in enumerate(names, 1)}}
    ids = tuple((value, by_name[name]) for value, name in entries.items())
    return ClassValues(names, ids, kinds[0] == "colours", _other(table.get("other"), path), path)


def find_class_values(place: Path) -> ClassValues:
    """Read the values of a file, or of a data set's folder: those that an import found in its source come first.

    Raises:
        UserError: if there are none.
    """
    if not place.is_dir():
        return read_class_values(place)
    path = next((file for name in (ORIGINAL, FILE) if (file := place / name).is_file()), None)
    if path is None:
        raise UserError(f"{place} has neither {ORIGINAL} nor {FILE}: give a file with a table [values] or [colours]")
    return read_class_values(path)


def write_class_values(path: Path, names: Mapping[str, str], *, other: str = "") -> None:
    """Write a ``classes.toml``.

    Args:
        path: of the file.
        names: class names by value (``7``), or by colour (``#804080``), in the order of their ids.
        other: what further values are: ``background``, ``ignore``, or nothing.
    """
    kind = "colours" if any(value.startswith("#") for value in names) else "values"
    lines = [f"other = {quoted(other)}", ""] if other else []
    lines += [f"[{kind}]", *(f"{quoted(v) if kind == 'colours' else v} = {quoted(name)}" for v, name in names.items())]
    path.write_text("".join(f"{line}\n" for line in lines), "utf-8")


def write_class_names(root: Path, names: Sequence[str]) -> None:
    """Write ``classes.txt``, or ``classes.toml`` for names that it cannot hold."""
    text = "".join(f"{i}: {name}\n" for i, name in enumerate(names, 1))
    try:
        plain = parse_classes(text, root / "classes.txt") == tuple(names)
    except UserError:
        plain = False
    if plain:
        (root / "classes.txt").write_text(text, "utf-8")
    else:
        write_class_values(root / FILE, {str(i): name for i, name in enumerate(("background", *names))})


def mask_key(content: bytes, values: ClassValues | None) -> str:
    """A digest of a mask's file and of what its values mean, as hexadecimal digits."""
    state = blake2b(content, digest_size=16)
    if values is not None:
        state.update(repr((values.ids, values.colours, values.other)).encode())
    return state.hexdigest()


def quoted(text: str) -> str:
    """A text as a TOML string."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if ord(c) >= 32 and ord(c) != 127 else f"\\u{ord(c):04x}" for c in escaped) + '"'


def parse_colour(text: str) -> int | None:
    """A colour as 0xrrggbb from ``#rrggbb``, ``rrggbb`` or three numbers up to 255; None if it is none.

    >>> hex(parse_colour("#804080")), hex(parse_colour("128, 64, 128")), parse_colour("300,0,0")
    ('0x804080', '0x804080', None)
    """
    found = _TEXT_COLOUR.fullmatch(text.strip())
    if found is None:
        return None
    if found[1]:
        return int(found[1], 16)
    red, green, blue = (int(found[i]) for i in (2, 3, 4))
    return red << 16 | green << 8 | blue if max(red, green, blue) < 256 else None


def packed(colours: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """Colours ``(..., 3)`` as 0xrrggbb ``(...)``."""
    red, green, blue = (colours[..., channel].astype(np.uint32) for channel in range(3))
    return np.asarray(red << 16 | green << 8 | blue)


@lru_cache(maxsize=4)
def _table(ids: tuple[tuple[int, int], ...], other: int | None, limit: int) -> NDArray[np.uint16]:
    """Table from value to id; `UNKNOWN` where there is none, ``(limit,)``."""
    table = np.full(limit, UNKNOWN if other is None else other, np.uint16)
    for value, class_id in ids:
        table[value] = class_id
    table.setflags(write=False)
    return table


def _key(text: str, colour: bool, path: Path) -> int:
    if colour:
        value = parse_colour(text)
        if value is None:
            raise UserError(f'{path}: expected a colour such as "#804080" or "128, 64, 128", found \'{text}\'')
        return value
    number = natural(text)
    if number is None or number > HIGHEST:
        raise UserError(f"{path}: expected a mask value of 0 to {HIGHEST} in [values], found '{text[:60]}'")
    return number


def _name(name: object, path: Path) -> str:
    if not isinstance(name, str) or not name.strip() or any(ord(c) < 32 or 127 <= ord(c) < 160 for c in name):
        raise UserError(f'{path}: expected a class name, "background" or "ignore", found {str(name)[:40]!r}')
    name = normal(name.strip())
    return {0: "background", IGNORE: "ignore", None: name}[special_id(name)]


def _other(word: object, path: Path) -> int | None:
    if word not in (None, "background", "ignore"):
        raise UserError(f'{path}: expected other = "background" or "ignore", found {str(word)[:40]!r}')
    return {None: None, "background": 0, "ignore": IGNORE}[word]
