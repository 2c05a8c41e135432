"""CVAT's "Segmentation mask 1.1": masks in colour, named by a ``labelmap.txt``.

Specified in CVAT's documentation, "Segmentation Mask": ``SegmentationClass`` holds a mask per image,
``SegmentationObject`` one colour per object, which is not read, ``ImageSets/Segmentation`` the names of the images of
each subset, and ``JPEGImages`` the images, if they were exported with the annotations.
"""

from __future__ import annotations

from pathlib import PurePosixPath

from barm.data.importers.annotations import Annotations, ImportOptions, LeftOut
from barm.data.importers.colour_tables import label_map, source_values
from barm.data.importers.mask_files import LOST, Splits, pair
from barm.data.importers.mask_items import mask_items, readable
from barm.data.importers.mask_scan import check_listed, in_colour
from barm.data.importers.source_tree import Tree
from barm.errors import UserError
from barm.reading import read_text

TITLE = "CVAT segmentation masks"
OPTIONS = ("empty",)
TABLE, MASKS, OBJECTS, IMAGES = "labelmap.txt", "SegmentationClass", "SegmentationObject", "JPEGImages"
LISTS = "ImageSets/Segmentation"


def lacks(tree: Tree) -> str | None:
    """What a folder lacks to be CVAT's export; None if it is one."""
    if _top(tree) is None:
        return f"no {TABLE} beside a folder {MASKS}"
    return None


def read(tree: Tree, options: ImportOptions) -> Annotations:
    """Read CVAT's export.

    Raises:
        UserError: if a mask holds a colour that ``labelmap.txt`` does not list, or images are missing.
    """
    top = _top(tree)
    if top is None:
        raise UserError(f"{tree.root}: expected a {TABLE} beside a folder {MASKS}, found none")
    table = tree.root / top / TABLE
    values = label_map(read_text(table), table)
    masks = [f for f in tree.with_suffix(".png") if f.is_relative_to(top / MASKS)]
    own = tuple(f"{top / folder}/".removeprefix("./") for folder in (MASKS, OBJECTS))
    images = [key for key in tree.images if tree.images_root is not None or not key.startswith(own)]
    if not images:
        raise UserError(
            f"{tree.root} holds no images, as CVAT exports annotations alone: give their folder with --images"
        )
    pairs = pair([m.relative_to(top) for m in masks], images)
    pairs = pairs._replace(masks={image: top / mask for image, mask in pairs.masks.items()})
    left_out = LeftOut()
    left_out.add(LOST, *pairs.lost)
    facts = in_colour(readable(tree, pairs, left_out))
    check_listed(facts, values)
    painted = {image: (mask, values) for image, mask in pairs.masks.items()}
    splits = Splits(tree, (top / LISTS).as_posix())
    items = mask_items(tree, painted, facts, options, left_out, images=images, splits=splits)
    return Annotations(values.names, items, left_out.counts(), (), source_values(values))


def _top(tree: Tree) -> PurePosixPath | None:
    """The folder that holds the table and the masks; None if there is none.

    Raises:
        UserError: if there are several.
    """
    masks = tree.with_suffix(".png")
    tops = [p.parent for p in tree.named(TABLE) if any(f.is_relative_to(p.parent / MASKS) for f in masks)]
    if len(tops) > 1:
        raise UserError(f"{tree.root} holds several exports of CVAT, {tops[0]} and {tops[1]}: import each by itself")
    return tops[0] if tops else None
