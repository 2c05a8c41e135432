"""The values or colours that stood for the classes in a source, as ``source_classes.toml`` keeps them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain

from barm.data.class_values import HIGHEST, ORIGINAL, parse_colour
from barm.data.mask_values import listing
from barm.labels import IGNORE
from barm.words import noun

WHITE = 2**24 - 1


def source_classes(names: Sequence[str], values: Mapping[str, str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """Names of the background, of ignored pixels and of classes by the source's values, and notes on what is missing.

    A value is kept if masks can hold it and it stands for one class alone. Background that has none takes the first
    that is free: 0, else 255, else the next one; of colours black, else white.

    Args:
        names: of the classes that were kept, in the order of their ids.
        values: number or colour by name, as `Annotations.values` has them.

    Returns:
        Nothing where no class keeps its value.
    """
    colours = any(value.startswith("#") for value in values.values())
    numbers = {name: _number(value, colours) for name, value in values.items()}
    wanted = ("background", "ignore", *names)
    times = Counter(number for name in wanted if (number := numbers.get(name)) is not None)
    kept = {number: name for name in wanted if (number := numbers.get(name)) is not None and times[number] == 1}
    notes = [note for name in names if (note := _missing(name, names, values, numbers, times))]
    if not set(kept.values()) & set(names):
        return {}, tuple(notes)
    if "background" not in kept.values():
        free = next(n for n in chain((0, WHITE if colours else IGNORE), range(1, WHITE)) if n not in times)
        kept = {free: "background", **kept}
        notes.append(f"the source has no value for background: in {ORIGINAL} it is {_written(free, colours)}")
    return {_written(number, colours): name for number, name in kept.items()}, tuple(notes)


def _missing(
    name: str,
    names: Sequence[str],
    values: Mapping[str, str],
    numbers: Mapping[str, int | None],
    times: Mapping[int, int],
) -> str | None:
    """Why a class has no value in the file; None if it has one. Classes that share a value are named together."""
    if name not in values:
        return f"{ORIGINAL} lacks '{name}': the source has no value for it"
    number = numbers[name]
    if number is None:
        return f"{ORIGINAL} lacks '{name}': {values[name][:40]} is no value of a mask (0 to {HIGHEST})"
    sharing = [other for other in ("background", "ignore", *names) if numbers.get(other) == number]
    if times[number] == 1 or name != next(other for other in sharing if other in names):
        return None
    lost = [f"'{other}'" for other in sharing if other in names]
    shown = listing([f"'{other}'" for other in sharing])
    return f"{ORIGINAL} lacks the {noun(len(lost), 'classes')} {listing(lost)}: {values[name]} stands for {shown}"


def _number(value: str, colours: bool) -> int | None:
    """A value as a number that masks can hold, a colour as 0xrrggbb; None if it is none."""
    if colours:
        return parse_colour(value) if value.startswith("#") else None
    return int(value) if value.isascii() and value.isdigit() and len(value) < 9 and int(value) <= HIGHEST else None


def _written(number: int, colours: bool) -> str:
    return f"#{number:06x}" if colours else str(number)
