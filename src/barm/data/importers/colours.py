"""Masks in colour with a table of colours and class names (`barm.data.importers.colour_tables` lists its forms).

Colours have to be those of the table. Nothing is taken to the nearest colour: between two classes a smoothed edge may
have the colour of a third.
"""

from __future__ import annotations

from barm.data.importers.annotations import Annotations, ImportOptions, LeftOut
from barm.data.importers.colour_tables import WRITE, faulty_tables, find_colour_table, source_values
from barm.data.importers.mask_items import mask_items, paired, readable
from barm.data.importers.mask_kinds import mask_kind
from barm.data.importers.mask_scan import JPEG, check_listed, in_colour, total
from barm.data.importers.source_tree import Tree
from barm.data.mask_values import listing
from barm.errors import UserError

TITLE = "masks in colour"
OPTIONS = ("colours", "empty")
MOST_COLOURS = 256  # of a mask that JPEG has not changed


def lacks(tree: Tree) -> str | None:
    """What a folder lacks to hold masks in colour; None if it does hold them."""
    found = mask_kind(tree)
    return None if found.kind == "colours" else found.why


def read(tree: Tree, options: ImportOptions) -> Annotations:
    """Read masks in colour by a table.

    Raises:
        UserError: if there is no table, or it lacks a colour.
    """
    left_out = LeftOut()
    pairs = paired(tree, left_out)
    facts = in_colour(readable(tree, pairs, left_out))
    values = find_colour_table(tree, options)
    if values is None and any(
        len(each.counts) > MOST_COLOURS for path, each in facts.items() if path.suffix.lower() in JPEG
    ):
        raise UserError(f"{tree.root}: JPEG has changed the colours of the masks: export them as PNG")
    if values is None:
        shown = listing([f"#{colour:06x}" for colour, _ in total(facts.values()).most_common()])
        faults = f"; {faulty[0]}" if (faulty := faulty_tables(tree)) else ""
        raise UserError(f"{tree.root}: nothing names the masks' colours ({shown}): {WRITE}{faults}")
    check_listed(facts, values)
    painted = {image: (mask, values) for image, mask in pairs.masks.items()}
    items = mask_items(tree, painted, facts, options, left_out)
    notes = (f"colours are named by {values.path.name}",)
    return Annotations(values.names, items, left_out.counts(), notes, source_values(values))
