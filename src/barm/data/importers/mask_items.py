"""Annotated images of formats that have a mask per image."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path, PurePosixPath

from barm.data.class_values import ClassValues
from barm.data.importers.annotations import ImportOptions, Item, LeftOut
from barm.data.importers.mask_files import EMPTY, LOST, Pairs, Splits, mask_files, pair
from barm.data.importers.mask_scan import UNREADABLE, Facts, blank, painter, scan
from barm.data.importers.source_tree import Tree, name_of
from barm.errors import UserError

UNLISTED = "images that no list of a split names"


def paired(tree: Tree, left_out: LeftOut) -> Pairs:
    """The images of a source with their masks; masks without an image are added to what is left out.

    Raises:
        UserError: as `pair`.
    """
    files = mask_files(tree)
    pairs = pair(files.masks, files.images)
    left_out.add(LOST, *pairs.lost)
    return pairs


def readable(tree: Tree, pairs: Pairs, left_out: LeftOut) -> dict[Path, Facts]:
    """The facts of all masks of images that can be read.

    Raises:
        UserError: if no mask belongs to an image, or none can be read.
    """
    if not pairs.masks:
        lost = f"no image is called like {pairs.lost[0]}" if pairs.lost else "no file is a mask by its name or folder"
        raise UserError(f"{tree.root}: {lost}: put images beside the masks, or give their folder with --images")
    facts = scan([tree.root / mask for mask in pairs.masks.values()])
    left_out.add(UNREADABLE, *(mask for mask in pairs.masks.values() if tree.root / mask not in facts))
    if not facts:
        raise UserError(f"{tree.root / next(iter(pairs.masks.values()))} cannot be read as a mask, nor can any other")
    return facts


def mask_items(
    tree: Tree,
    masks: Mapping[str, tuple[PurePosixPath, ClassValues]],
    facts: Collection[Path],
    options: ImportOptions,
    left_out: LeftOut,
    *,
    images: Sequence[str] | None = None,
    splits: Splits | None = None,
) -> tuple[Item, ...]:
    """The annotated images, and what was left out.

    Args:
        tree: the source.
        masks: mask below the source, and what its values mean, by image.
        facts: the masks that can be read.
        options: choices.
        left_out: what was left out, to which this adds.
        images: all images; by default those of `mask_files`.
        splits: of the images.
    """
    splits = splits or Splits(tree)
    items = list[Item]()
    for image in mask_files(tree).images if images is None else images:
        place, values = masks.get(image, (None, None))
        if place is None and options.empty == "drop":
            left_out.add(EMPTY, image)
        elif place is None or values is None:
            items.append(Item(name_of(image), tree.images[image], blank, splits.of(image)))
        elif tree.root / place in facts:
            paint = painter(tree.root / place, values)
            items.append(Item(name_of(image), tree.images[image], paint, splits.of(image, place)))
    if splits.listed and any(item.split is not None for item in items):
        left_out.add(UNLISTED, *(item.name for item in items if item.split is None))
        items = [item for item in items if item.split is not None]
    return tuple(items)
