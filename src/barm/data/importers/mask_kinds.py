"""What kind of masks a folder holds, from its file names and a few of its masks."""

from __future__ import annotations

from functools import lru_cache
from pathlib import PurePosixPath
from typing import Literal, NamedTuple

from barm.data.class_names import LARGEST, parse_classes
from barm.data.class_values import FILE, ClassValues, read_class_values
from barm.data.importers.binary_names import by_class
from barm.data.importers.colour_tables import colour_tables
from barm.data.importers.mask_files import mask_files
from barm.data.importers.mask_scan import try_facts
from barm.data.importers.source_tree import Tree
from barm.data.text import composed_text
from barm.errors import UserError

MaskKind = Literal["colours", "binary", "indexed"]
SAMPLE = 12  # masks that are read to know the kind
NAME_FILES = ("classes.txt", "labels.txt", "names.txt", "class_names.txt", "label_names.txt")
CITYSCAPES = ("labelids", "labeltrainids")


class Recognised(NamedTuple):
    """The kind of a folder's masks, or why it has none."""

    kind: MaskKind | None
    why: str


@lru_cache(maxsize=2)
def mask_kind(tree: Tree) -> Recognised:
    """Find out which of the general formats of masks a folder is of."""
    masks = mask_files(tree).masks
    owner = _owner(tree)
    if owner or not masks:
        return Recognised(None, owner or "no masks (a folder such as masks or labels, or files such as a_mask.png)")
    chosen = masks[:: max(1, len(masks) // SAMPLE)][:SAMPLE]
    facts = [each for path in chosen if (each := try_facts(tree.root / path)) is not None]
    if not facts:
        return Recognised(None, f"{masks[0]} cannot be read as a mask")
    binary = all(each.binary for each in facts)
    if any(each.colour and not each.grey for each in facts):
        return Recognised("colours", f"{masks[0]} is in colour")
    if any(each.colour for each in facts) and colour_tables(tree):
        return Recognised("colours", "a table of colours")
    if binary and value_table(tree) is None and (len(_names(tree)) < 2 or by_class(tree)):
        return Recognised("binary", f"{masks[0]} holds two values")
    return Recognised("indexed", f"{masks[0]} holds numbers of classes")


def value_table(tree: Tree) -> ClassValues | None:
    """The ``classes.toml`` of a source, if it lists values.

    Raises:
        UserError: if it is no table, or there are several.
    """
    found = tree.named(FILE)
    if len(found) > 1:
        raise UserError(f"{tree.root} has {found[0]} and {found[1]}: keep one of them")
    values = read_class_values(tree.root / found[0]) if found else None
    return values if values is not None and not values.colours else None


def name_files(tree: Tree) -> list[PurePosixPath]:
    """Files of the source that hold class names."""
    return [f for f in tree.named(*NAME_FILES) if len(f.parts) <= 2]


def _names(tree: Tree) -> tuple[str, ...]:
    for place in name_files(tree)[:1]:
        try:
            return parse_classes(composed_text(tree.root / place, LARGEST), tree.root / place)
        except UserError:
            return ("?", "?")  # several, which are not clear
    return ()


def _owner(tree: Tree) -> str | None:
    """The special format that a folder's masks belong to."""
    if any(f.stem.lower().endswith(CITYSCAPES) for f in tree.with_suffix(".png")):
        return "its masks are Cityscapes'"
    if tree.named("labelmap.txt") and any("SegmentationClass" in f.parts for f in tree.with_suffix(".png")):
        return "its masks are CVAT's"
    folders = {part for f in tree.with_suffix(".png") for part in f.parts[:-1]}
    if tree.named("class_names.txt") and folders & {"SegmentationClassPNG", "SegmentationClass"}:
        return "its masks are LabelMe's"
    return None
