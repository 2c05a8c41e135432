"""Masks of one class each: two values, background and the class, in a file per image and class.

The class is named by a folder (``masks/cat/a.png``), or by the file (``a_cat.png``, ``a/cat.png``). Masks of a single
class that nothing names need ``--classes NAME``. 255 is the class here, as is 1: nothing is ignored. Of several masks
that cover a pixel the later class counts, in the order of ``--classes``, else of the alphabet (``--overlap``).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from barm.data.images import open_image
from barm.data.importers.annotations import (
    Annotations,
    Classes,
    ImportOptions,
    Item,
    Layers,
    LeftOut,
    Overlap,
    Painted,
    Patch,
    Region,
    Size,
)
from barm.data.importers.binary_names import ClassMask, class_masks
from barm.data.importers.mask_files import EMPTY, LOST, Splits, mask_files
from barm.data.importers.mask_kinds import mask_kind
from barm.data.importers.mask_scan import BLACK, UNREADABLE, WHITE, Facts, blank, read_grey, scan
from barm.data.importers.regions import cropped, paint
from barm.data.importers.source_tree import Tree, name_of
from barm.data.mask_values import listing
from barm.data.masks import check_mask_size
from barm.errors import UserError
from barm.words import count

TITLE = "binary masks per class"
OPTIONS = ("overlap", "empty")
ONE_CLASS = "say with --classes NAME which class they show"


def lacks(tree: Tree) -> str | None:
    """What a folder lacks to hold masks of one class each; None if it does hold them."""
    found = mask_kind(tree)
    return None if found.kind == "binary" else found.why


def read(tree: Tree, options: ImportOptions) -> Annotations:
    """Read masks of one class each.

    Raises:
        UserError: if nothing names the class, or a mask holds more than two values.
    """
    masks, files = class_masks(tree), mask_files(tree)
    if not masks:
        raise UserError(f"{tree.root} holds {count(len(files.masks), 'masks')}, of which none is named like an image")
    masks, order = _named(masks, tree, options)
    facts = scan([tree.root / each.mask for each in masks])
    _check(facts)
    classes = Classes(order, tree.root)
    left_out, paired = LeftOut(), {each.mask for each in masks}
    left_out.add(LOST, *(mask for mask in files.masks if mask not in paired))
    left_out.add(UNREADABLE, *(each.mask for each in masks if tree.root / each.mask not in facts))
    by_image = defaultdict[str, list[ClassMask]](list)
    for each in sorted(masks, key=lambda one: order.index(one.name)):
        if tree.root / each.mask in facts:
            by_image[each.image].append(each)
    damaged = {each.image for each in masks if tree.root / each.mask not in facts}
    splits, items = Splits(tree), list[Item]()
    for image in files.images:
        shown = by_image.get(image, [])
        if image in damaged:
            left_out.add("images of which a mask cannot be read", image)
            continue
        if not shown and options.empty == "drop":
            left_out.add(EMPTY, image)
            continue
        layers = [(class_id, tree.root / one.mask) for one in shown if (class_id := classes.add(one.name))]
        split = splits.of(image, shown[0].mask if shown else None)
        painter = Layers(tuple(layers), partial(_paint, options.overlap)) if layers else blank
        items.append(Item(name_of(image), tree.images[image], painter, split))
    notes = (
        [f"masks of several classes are laid over each other in the order {listing(order)}"] if len(order) > 1 else []
    )
    return Annotations(classes.names, tuple(items), left_out.counts(), (*notes, *classes.notes()))


def _named(
    masks: Sequence[ClassMask], tree: Tree, options: ImportOptions
) -> tuple[tuple[ClassMask, ...], tuple[str, ...]]:
    """The masks with the names of their classes, and these in the order in which they are laid over each other."""
    names = {each.name for each in masks}
    if names == {""} or all(name.isdigit() for name in names):
        if len(options.classes) != 1:
            what = "like their images" if names == {""} else "like their images with a number, as objects of one class"
            raise UserError(f"{tree.root}: masks such as {masks[0].mask} are named {what}: {ONE_CLASS}")
        only = options.classes[0]
        return tuple(each._replace(name=only) for each in masks), (only,)
    if "" in names:
        lost = next(each for each in masks if not each.name)
        other = next(each for each in masks if each.name)
        raise UserError(f"{tree.root}: {other.mask} names a class, {lost.mask} names none: name every mask alike")
    order = (*(n for n in options.classes if n in names), *sorted(names - set(options.classes)))
    return tuple(masks), order


def _check(facts: Mapping[Path, Facts]) -> None:
    """Refuse masks with more than background and one class."""
    wrong = {path: each for path, each in facts.items() if not each.binary}
    if not wrong:
        return
    path, each = next(iter(wrong.items()))
    kept = {BLACK, WHITE} if each.colour else {0, 255} if 255 in each.counts and not each.palette else {0, 1}
    strange = {value: number for value, number in each.counts.items() if value not in kept}
    shown = listing([f"#{value:06x}" if each.colour else value for value in sorted(strange)])
    what = f"{count(sum(strange.values()), 'pixels')} hold {shown}"
    if not strange:
        what = f"0 is #{each.palette[0]:06x} in its palette, so that it may not be background"
    raise UserError(
        f"{path}: {what} ({count(len(wrong), 'masks')} such): a mask of one class holds 0 and 255, or 0 and 1; save it "
        "as PNG in black and white without smoothed edges, or give --format indexed or colours"
    )


def _paint(overlap: Overlap, layers: Sequence[tuple[int, Path]], size: Size) -> Painted:
    """Lay the masks of an image's classes over each other."""
    sizes = set[Size]()
    for _, path in layers:
        with open_image(path) as mask:
            sizes.add(mask.size)
    if len(sizes) > 1:
        raise UserError("its masks differ in size")
    check_mask_size(layers[0][1], size)
    painted = paint([Region(class_id, partial(_cover, path)) for class_id, path in layers], overlap, sizes.pop())
    return painted._replace(objects={})


def _cover(path: Path, size: Size) -> Patch:
    """A mask's own pixels, whatever the size of the image is."""
    return cropped(read_grey(path) > 0)
