"""Cityscapes: ``leftImg8bit/SPLIT/CITY/*_leftImg8bit.png`` and ``gtFine/SPLIT/CITY/*_gtFine_labelIds.png``.

Specified by the data set's own scripts (github.com/mcordts/cityscapesScripts, README and helpers/labels.py). The 19
classes that are evaluated become the ids 1 to 19; all other labels are ignored. ``_labelTrainIds.png`` are read as
well; the masks of the test split are dummies. ``gtCoarse`` is read where there is no ``gtFine``.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

from barm.data.class_values import ClassValues
from barm.data.importers.annotations import Ambiguous, Annotations, ImportOptions, Item, LeftOut, Preview
from barm.data.importers.mask_files import LOST, Pairs
from barm.data.importers.mask_items import mask_items, readable
from barm.data.importers.mask_scan import check_listed, painter
from barm.data.importers.source_tree import Tree, name_of, split_of
from barm.errors import UserError
from barm.labels import IGNORE

TITLE = "Cityscapes"
OPTIONS = ("labels", "empty")
FINE, COARSE = "_gtFine", "_gtCoarse"
KINDS: dict[Literal["ids", "trainids"], str] = {"ids": "_labelIds", "trainids": "_labelTrainIds"}
IMAGE = "_leftImg8bit"
TEST = "images of the test split, whose masks are dummies"


class _Label(NamedTuple):
    """A label of the data set's table."""

    id: int
    name: str
    train_id: int
    ignored: bool


def lacks(tree: Tree) -> str | None:
    """What a folder lacks to be Cityscapes; None if it is it."""
    ends = tuple(kind + end for kind in (FINE, COARSE) for end in KINDS.values())
    return None if any(f.stem.endswith(ends) for f in tree.with_suffix(".png")) else f"no *{FINE}{KINDS['ids']}.png"


def read(tree: Tree, options: ImportOptions) -> Annotations:
    """Read Cityscapes' images with their label ids or train ids.

    Raises:
        UserError: if a mask holds a value that is no label.
        Ambiguous: if there are label ids and train ids.
    """
    left_out, notes = LeftOut(), list[str]()
    images = {PurePosixPath(key).stem.removesuffix(IMAGE): key for key in tree.images if _is_image(key)}
    quality = FINE if _masks(tree, FINE, "ids") or _masks(tree, FINE, "trainids") else COARSE
    if quality == FINE and (_masks(tree, COARSE, "ids") or _masks(tree, COARSE, "trainids")):
        notes.append("gtCoarse is not read, since there is gtFine")
    both = {kind: _train_and_val(_masks(tree, quality, kind), images) for kind in KINDS}
    kinds = [kind for kind, masks in both.items() if masks]
    if not kinds:
        raise UserError(f"{tree.root}: expected images *{IMAGE}.png of the masks, found none: give them with --images")
    if options.labels == "ask" and len(kinds) == 2:
        _ask(tree, both, images)
    kind = kinds[0] if options.labels == "ask" else options.labels
    if not both[kind]:
        raise UserError(f"{tree.root}: --labels {kind} expects *{quality}{KINDS[kind]}.png, found none")
    pairs = Pairs({images[name]: mask for name, mask in both[kind].items()}, ())
    left_out.add(LOST, *(mask for name, mask in _masks(tree, quality, kind).items() if name not in images))
    kept = [key for key in images.values() if split_of(key) != "test"]
    left_out.add(TEST, *(key for key in images.values() if split_of(key) == "test"))
    facts = readable(tree, pairs, left_out)
    values = label_values(kind)
    check_listed(facts, values)
    masks = {image: (mask, values) for image, mask in pairs.masks.items()}
    items = mask_items(tree, masks, facts, options, left_out, images=kept)
    originals = {label.name: str(label.id if kind == "ids" else label.train_id) for label in _evaluated()}
    originals["background"] = "0" if kind == "ids" else str(IGNORE)  # what no prediction should hold
    notes.append(f"labels that are not evaluated are ignored; read from {quality.lstrip('_')}{KINDS[kind]}")
    return Annotations(values.names, items, left_out.counts(), tuple(notes), originals)


def label_values(kind: Literal["ids", "trainids"]) -> ClassValues:
    """What label ids, or train ids, mean."""
    evaluated = _evaluated()
    names = tuple(label.name for label in evaluated)
    if kind == "trainids":
        ids = {label.train_id: i for i, label in enumerate(evaluated, 1)}
        return ClassValues(names, (*ids.items(), (IGNORE, IGNORE)), False, None, Path("Cityscapes' table of labels"))
    ids = {label.id: names.index(label.name) + 1 if not label.ignored else IGNORE for label in labels()}
    return ClassValues(names, tuple(ids.items()), False, None, Path("Cityscapes' table of labels"))


def labels() -> tuple[_Label, ...]:
    """The data set's labels, in the order of their ids."""
    text = resources.files("barm").joinpath("tables/cityscapes.csv").read_text("utf-8")
    rows = csv.DictReader(text.splitlines())
    return tuple(_Label(int(r["id"]), r["name"], int(r["train_id"]), r["ignored"] == "1") for r in rows)


def _evaluated() -> list[_Label]:
    return sorted((label for label in labels() if not label.ignored), key=lambda label: label.train_id)


def _is_image(key: str) -> bool:
    stem = PurePosixPath(key).stem
    return stem.endswith(IMAGE)


def _masks(tree: Tree, quality: str, kind: Literal["ids", "trainids"]) -> dict[str, PurePosixPath]:
    """Masks by the name that they share with their image."""
    end = quality + KINDS[kind]
    return {f.stem.removesuffix(end): f for f in tree.with_suffix(".png") if f.stem.endswith(end)}


def _train_and_val(masks: Mapping[str, PurePosixPath], images: Mapping[str, str]) -> dict[str, PurePosixPath]:
    return {name: mask for name, mask in masks.items() if name in images and split_of(images[name]) != "test"}


def _ask(
    tree: Tree, both: Mapping[Literal["ids", "trainids"], Mapping[str, PurePosixPath]], images: Mapping[str, str]
) -> None:
    """Ask which label images are meant."""
    name = next((name for name in both["ids"] if name in both["trainids"]), None)
    readings = dict[str, Preview]()
    for kind, masks in both.items():
        shown = name or next(iter(masks))
        key, values = images[shown], label_values(kind)
        item = Item(name_of(key), tree.images[key], painter(tree.root / masks[shown], values))
        readings[kind] = Preview(item, values.names)
    raise Ambiguous(f"{tree.root} has label ids and train ids, which may differ", "--labels", readings)
