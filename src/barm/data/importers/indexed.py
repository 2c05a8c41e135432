"""Masks that hold a number per pixel: grey values, or indices of a palette.

Names come from ``classes.toml`` (``[values]``, for numbers with gaps), from ``classes.txt`` or ``labels.txt`` (the
names of 1, 2, ...; where the first may be 0, ``--first`` says it), from ``--classes`` (likewise), or from a table of
the palette's colours. Where a number has different colours in different masks, a program may have chosen the numbers
anew in each file: then ``--values`` says what counts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from barm.data.class_names import LARGEST, parse_classes
from barm.data.class_values import ClassValues
from barm.data.importers.annotations import Ambiguous, Annotations, Classes, ImportOptions, Item, LeftOut, Preview
from barm.data.importers.colour_tables import WRITE, colour_tables, find_colour_table, source_values
from barm.data.importers.mask_files import Pairs
from barm.data.importers.mask_items import mask_items, paired, readable
from barm.data.importers.mask_kinds import mask_kind, name_files, value_table
from barm.data.importers.mask_scan import JPEG, Facts, check_listed, in_colour, in_numbers, painter, total
from barm.data.importers.source_tree import Tree, name_of
from barm.data.mask_values import listing, suggests
from barm.data.text import composed_text
from barm.errors import UserError
from barm.labels import IGNORE
from barm.words import count

TITLE = "masks of numbers"
OPTIONS = ("values", "first", "colours", "empty")
HIGHEST = 254  # id of a class
NAME_THEM = "write classes.txt with one name per line for the values 1, 2, ..., or give --classes"


class _Names(NamedTuple):
    """What the numbers in masks mean.

    Attributes:
        values: id by number, or by colour.
        note: where that stands.
        numbered: whether nothing but the order of the names says which number each has.
    """

    values: ClassValues
    note: str
    numbered: bool = False


class _Masks:
    """The images of masks, for previews."""

    def __init__(self, tree: Tree, pairs: Pairs) -> None:
        self._tree, self._images = tree, {tree.root / mask: image for image, mask in pairs.masks.items()}

    def preview(self, mask: Path, values: ClassValues) -> Preview:
        """An image with one reading of its mask."""
        image = self._images[mask]
        return Preview(Item(name_of(image), self._tree.images[image], painter(mask, values)), values.names)


def lacks(tree: Tree) -> str | None:
    """What a folder lacks to hold masks of numbers; None if it does hold them."""
    found = mask_kind(tree)
    return None if found.kind == "indexed" else found.why


def read(tree: Tree, options: ImportOptions) -> Annotations:
    """Read masks of numbers.

    Raises:
        UserError: if nothing names the numbers, or a mask holds others.
        Ambiguous: where a number has different colours in different masks.
    """
    left_out = LeftOut()
    pairs = paired(tree, left_out)
    masks, facts = _Masks(tree, pairs), readable(tree, pairs, left_out)
    _same_kind(facts)
    facts = in_numbers(facts)
    if options.values == "ask":
        _ask_about_palettes(tree, masks, facts)
    names = _names(tree, options, facts, masks)
    if names.values.colours:
        facts = in_colour(facts)
    elif names.numbered:
        _check_numbers(names.values, facts)
    check_listed(facts, names.values)
    painted = {image: (mask, names.values) for image, mask in pairs.masks.items()}
    items = mask_items(tree, painted, facts, options, left_out)
    return Annotations(names.values.names, items, left_out.counts(), (names.note,), source_values(names.values))


def _same_kind(facts: Mapping[Path, Facts]) -> None:
    """Refuse masks in colour, and JPEG, which keeps no numbers."""
    lossy = next((path for path in facts if path.suffix.lower() in JPEG), None)
    if lossy:
        raise UserError(f"{lossy}: JPEG changes the numbers in a mask: export the masks as PNG")
    wrong = [path for path, each in facts.items() if each.colour and not each.grey]
    if wrong:
        other = next((path for path in facts if path not in wrong), None)
        beside = f", {other} holds numbers: keep masks of one kind" if other else ": give --format colours"
        raise UserError(f"{wrong[0]} is in colour{beside}")


def _names(tree: Tree, options: ImportOptions, facts: Mapping[Path, Facts], masks: _Masks) -> _Names:
    """What the numbers mean, by the first of the places that say it."""
    palettes = all(each.palette for each in facts.values())
    if options.values == "colour" or (options.colours is not None and options.values == "ask"):
        return _by_colour(tree, options, facts)
    table = value_table(tree)
    if table is not None:
        return _Names(table, f"values are named by {table.path.name}")
    places = name_files(tree)
    if len(places) > 1:
        raise UserError(f"{tree.root} has {places[0]} and {places[1]}: keep the one that names the masks' values")
    highest = max(total(facts.values()), default=0)
    if places or options.classes:
        path = tree.root / places[0] if places else Path("--classes")
        text = composed_text(path, LARGEST) if places else ""
        listed = parse_classes(text, path) if places else options.classes
        if options.first == "ask" and places and _lines(text) == list(listed):
            _ask_about_first(listed, facts, path, masks)
        zero = options.first == "0"
        note = f"{'0, 1' if zero else '0 is background, 1'}, 2, ... are named by {path.name}"
        values = _numbered(listed, path, 0 if zero else 1)
        if palettes and options.values == "ask":
            _ask_about_names(values, tree, facts, masks)
        return _Names(values, note, True)
    if palettes and options.values == "ask" and find_colour_table(tree, options) is not None:
        return _by_colour(tree, options, facts)
    raise UserError(f"{tree.root}: nothing names the masks' values ({_shown(facts)}, up to {highest}): {NAME_THEM}")


def _by_colour(tree: Tree, options: ImportOptions, facts: Mapping[Path, Facts]) -> _Names:
    values = find_colour_table(tree, options)
    if values is None:
        shown = listing([f"#{colour:06x}" for colour, _ in total(in_colour(facts).values()).most_common()])
        raise UserError(f"{tree.root}: nothing names the masks' colours ({shown}): {WRITE}")
    return _Names(values, f"the palettes' colours are named by {values.path.name}")


def _numbered(names: tuple[str, ...], path: Path, first: int) -> ClassValues:
    """The names as those of `first` and the numbers after it; 255 is ignored, as is 0 background if it has no name."""
    classes = Classes(where=path)
    ids = {value: classes.add(name) for value, name in enumerate(names, first)}
    ids = {**ids, **{value: value for value in (0, IGNORE) if value not in ids}}
    return ClassValues(classes.names, tuple(ids.items()), False, None, path)


def _lines(text: str) -> list[str]:
    """The lines of a list of names that are no comments."""
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("# ")]


def _check_numbers(values: ClassValues, facts: Mapping[Path, Facts]) -> None:
    """Refuse numbers without a name, with the likely reason."""
    known, held = dict(values.ids), total(facts.values())
    if set(held) <= set(known):
        return
    path = next(path for path, each in facts.items() if not set(each.counts) <= set(known))
    reason = suggests(set(held), len(values.names)).replace("classes.txt", values.path.name)
    if known[0] != 0:
        strange = listing(sorted(set(held) - set(known)))
        reason = f"{strange}; its first name is that of 0, so add a line for it, such as 'ignore'"
    raise UserError(
        f"{path}: the masks hold values that {values.path} does not name: {reason}; or list them in a "
        "classes.toml as [values]"
    )


def _ask_about_first(names: tuple[str, ...], facts: Mapping[Path, Facts], path: Path, masks: _Masks) -> None:
    """Ask whether the first name is 0 or 1, where both may be.

    Line 1 of ``classes.txt`` is 1 if it has to be. In other lists a highest number without a name may be ignored.
    """
    held = set(total(facts.values())) - {IGNORE}
    if 0 not in held or max(held) > len(names) - (path.name == "classes.txt"):
        return
    mask = next(mask for mask, each in facts.items() if set(each.counts) - {0, IGNORE})
    zero = _numbered((*names, "ignore"), path, 0)
    readings = {"0": masks.preview(mask, zero), "1": masks.preview(mask, _numbered(names, path, 1))}
    what = f"{path}: the masks hold 0 to {max(held)}, so that the first of {count(len(names), 'names')}, '{names[0]}', "
    raise Ambiguous(f"{what}may be 0, or 1 above a background", "--first", readings)


def _ask_about_names(values: ClassValues, tree: Tree, facts: Mapping[Path, Facts], masks: _Masks) -> None:
    """Ask what counts where a list of names and a table of the palette's colours contradict each other."""
    tables = list(colour_tables(tree).values())
    if len(tables) != 1:
        return
    by_number, by_colour = _name_of(values), _name_of(tables[0])
    for path, each in facts.items():
        for number, colour in each.palette.items():
            one, other = by_number.get(number, ""), by_colour.get(colour, "")
            if one and other and one != other:
                readings = {"index": masks.preview(path, values), "colour": masks.preview(path, tables[0])}
                what = f"{values.path} names the value {number} '{one}', {tables[0].path} its colour '{other}'"
                raise Ambiguous(what, "--values", readings)


def _name_of(values: ClassValues) -> dict[int, str]:
    """The name of every value."""
    names = {0: "background", IGNORE: "ignore", **dict(enumerate(values.names, 1))}
    return {value: names[class_id] for value, class_id in values.ids}


def _ask_about_palettes(tree: Tree, masks: _Masks, facts: Mapping[Path, Facts]) -> None:
    """Ask what counts where a number has several colours, or a colour several numbers."""
    colours, numbers = defaultdict[int, set[int]](set), defaultdict[int, set[int]](set)
    for each in facts.values():
        for number, colour in each.palette.items():
            colours[number].add(colour)
            numbers[colour].add(number)
    strange = sorted(number for number, several in colours.items() if len(several) > 1)
    twice = sorted(colour for colour, several in numbers.items() if len(several) > 1)
    if not strange and not twice:
        return
    path = next(
        path for path, each in facts.items() if any(n in strange or c in twice for n, c in each.palette.items())
    )
    union = tuple(sorted(numbers))[:HIGHEST]
    by_colour = ClassValues((), tuple((colour, i) for i, colour in enumerate(union)), True, IGNORE)
    by_number = ClassValues((), tuple((number, number) for number in range(256)), False)
    readings = {"index": masks.preview(path, by_number), "colour": masks.preview(path, by_colour)}
    if strange:
        shown = listing([f"#{colour:06x}" for colour in sorted(colours[strange[0]])])
        what = f"the palette's entry {strange[0]} is {shown}"
    else:
        what = f"#{twice[0]:06x} is the entries {listing(sorted(numbers[twice[0]]))} of palettes"
    raise Ambiguous(
        f"{tree.root}: in different masks {what}, so that the number or the colour may name the class",
        "--values",
        readings,
    )


def _shown(facts: Mapping[Path, Facts]) -> str:
    return listing(sorted(total(facts.values())))
