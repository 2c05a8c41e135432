"""Importers: what annotation tools write becomes a folder of images, masks and class names.

An importer is a module with a ``TITLE``, the ``OPTIONS`` that it follows, a function ``lacks(tree)`` that says what a
folder lacks to be of its format, and a function ``read(tree, options)`` that returns `Annotations`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from dataclasses import fields, replace
from pathlib import Path
from typing import NamedTuple

from barm.data.importers import (
    binary,
    cityscapes,
    coco,
    colours,
    cvat,
    hub,
    huggingface,
    indexed,
    label_studio,
    labelme,
    yolo,
)
from barm.data.importers.annotations import Ambiguous, Annotations, ImportOptions
from barm.data.importers.names import shortened, undivided
from barm.data.importers.preview import explain, is_reading
from barm.data.importers.report import ImportReport
from barm.data.importers.source_tree import Tree
from barm.data.importers.write import Origin, Split, write_folder
from barm.data.splits import VAL_SHARE
from barm.errors import UserError
from barm.escaping import place
from barm.reading import real
from barm.words import count

COMMON = ("format", "images", "classes", "rest", "drawn_on")  # options that every format follows


class Importer(NamedTuple):
    """A format.

    Attributes:
        title: as people call it.
        lacks: what a folder lacks to be of this format; None if it is of it.
        read: reads it.
        options: names of the `ImportOptions` that it follows, besides those of all formats.
    """

    title: str
    lacks: Callable[[Tree], str | None]
    read: Callable[[Tree, ImportOptions], Annotations]
    options: tuple[str, ...]


IMPORTERS: dict[str, Importer] = {
    "coco": Importer(coco.TITLE, coco.lacks, coco.read, coco.OPTIONS),
    "cvat": Importer(cvat.TITLE, cvat.lacks, cvat.read, cvat.OPTIONS),
    "colours": Importer(colours.TITLE, colours.lacks, colours.read, colours.OPTIONS),
    "binary": Importer(binary.TITLE, binary.lacks, binary.read, binary.OPTIONS),
    "indexed": Importer(indexed.TITLE, indexed.lacks, indexed.read, indexed.OPTIONS),
    "cityscapes": Importer(cityscapes.TITLE, cityscapes.lacks, cityscapes.read, cityscapes.OPTIONS),
    "huggingface": Importer(huggingface.TITLE, huggingface.lacks, huggingface.read, huggingface.OPTIONS),
    "label_studio": Importer(label_studio.TITLE, label_studio.lacks, label_studio.read, label_studio.OPTIONS),
    "labelme": Importer(labelme.TITLE, labelme.lacks, labelme.read, labelme.OPTIONS),
    "yolo": Importer(yolo.TITLE, yolo.lacks, yolo.read, yolo.OPTIONS),
}


def import_data(
    source: Path | str,
    root: Path | str,
    options: ImportOptions | None = None,
    *,
    val_share: float = VAL_SHARE,
    group_by: str = "",
    anew: bool = False,
    link: bool = False,
    follow_links: bool = False,
) -> ImportReport:
    """Turn what an annotation tool wrote into a folder of images, masks and class names.

    Args:
        source: the folder that the tool wrote, or ``owner/name`` of a data set on Hugging Face's hub.
        root: a new folder outside of the source.
        options: choices.
        val_share: of the images for validation, where the source does not divide them.
        group_by: as in `barm.data.splits.divide`.
        anew: divide the images even if the source does; its test split becomes a part of them.
        link: make hard links to the images instead of copies, where the disk allows it.
        follow_links: symbolic links may lead to files and folders outside of the source.

    Raises:
        UserError: if the format is not known, the source contradicts itself, or it can be read in several ways and no
            option says which is meant; images beside `root` then show all of them. `root` is not made.
    """
    source, root, options = Path(source), Path(os.path.abspath(root)), options or ImportOptions()
    for folder in (source, *([options.images] if options.images else [])):
        _check_outside(root, folder)
    repository = hub.repository(source, named=options.format == "huggingface")
    tree = Tree(hub.fetch(repository) if repository else source, options.images, follow_links=follow_links)
    for folder in tree.folders if follow_links else ():
        _check_outside(root, folder)
    tree.files = tuple(path for path in tree.files if not is_reading(path))
    name = detect_format(tree) if options.format == "auto" else options.format
    default = ImportOptions()
    chosen = {f.name: v for f in fields(options) if (v := getattr(options, f.name)) != getattr(default, f.name)}
    _check_options(name, chosen)
    try:
        found = IMPORTERS[name].read(tree, options)
        if not found.items and not found.left_out:
            raise UserError(f"{source}: nothing to import: no image in it has an annotation")
        items = shortened(found.items)
        if group_by and not anew and any(item.split for item in items):
            raise UserError(f"{source} divides its images already, so that --group-by would change nothing: add --anew")
        named = replace(found, items=undivided(items) if anew else items)
        origin = Origin(str(source), name, chosen)
        return write_folder(named, root, options, Split(val_share, group_by), origin, link=link)
    except Ambiguous as question:
        raise explain(question, root, options) from None


def _check_options(name: str, chosen: Collection[str]) -> None:
    """Refuse options that a format does not follow, so that nobody believes that they did something."""
    known = {*COMMON, *IMPORTERS[name].options}
    foreign = next((option for option in chosen if option not in known), None)
    if foreign is not None:
        flag = f"--{foreign.replace('_', '-')}"
        raise UserError(f"{flag} has no meaning for {IMPORTERS[name].title} (--format {name}): leave it out")


def _check_outside(root: Path, source: Path) -> None:
    """Refuse a new folder whose images would be found by the next import of the same source."""
    if source.is_dir() and real(root).is_relative_to(real(source)):
        raise UserError(f"{place(root)} lies in {source}, which is imported: choose a new folder outside of it")


def detect_format(tree: Tree) -> str:
    """Find out which format a folder is of.

    Raises:
        UserError: if it is of none, which says what it lacks to be of each, or of several.
    """
    lacks = {name: importer.lacks(tree) for name, importer in IMPORTERS.items()}
    fits = [name for name, lack in lacks.items() if lack is None]
    if len(fits) == 1:
        return fits[0]
    if fits:
        titles = " and ".join(f"{IMPORTERS[name].title} (--format {name})" for name in fits)
        raise UserError(f"{tree.root} can be read as {titles}: say which is meant")
    tried = "; ".join(f"{IMPORTERS[name].title}: {lack}" for name, lack in lacks.items())
    raise UserError(f"{tree.root} ({count(len(tree.files), 'files')}) is of no format that can be imported. {tried}")
