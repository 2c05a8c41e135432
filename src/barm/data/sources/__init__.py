"""Layouts of data sets on disk: the function that opens each, and the folders by which it is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from barm.data.sources import ade, folder, voc
from barm.data.sources.files import FileSource
from barm.data.sources.tree import Layout, lacking, levels
from barm.errors import UserError

SOURCES: dict[str, Callable[[Path, str, Sequence[str]], FileSource]] = {
    "voc": voc.open_voc,
    "ade": ade.open_ade,
    "folder": folder.open_folder,
}
LAYOUTS: dict[str, Layout] = {"voc": voc.LAYOUT, "ade": ade.LAYOUT, "folder": folder.LAYOUT}


def open_source(layout: str, root: Path | str, split: str, names: Sequence[str] = ()) -> FileSource:
    """Open a split (``train`` or ``val``) of the data set at `root`.

    Args:
        layout: a name in `SOURCES`; ``auto`` finds out which one it is.
        root: the data set's folder, or one that holds it, up to two levels higher.
        split: ``train`` or ``val``.
        names: of the ids 1, 2, ..., where the data set has no ``classes.txt``.
    """
    root = Path(root)
    return SOURCES[detect_layout(root) if layout == "auto" else layout](root, split, names)


def detect_layout(root: Path) -> str:
    """Detect the layout of a folder, or of the one data set up to two levels below it.

    Raises:
        UserError: if it has none, which says what each layout lacks, or if several fit.
    """
    for level in levels(root):
        fits = [(name, place) for place in level for name, layout in LAYOUTS.items() if not layout.lacks(place)]
        if len(fits) == 1:
            return fits[0][0]
        if fits:
            found = ", ".join(f"{place} ({name})" for name, place in fits[:4])
            raise UserError(f"{root} holds several data sets: {found}; give one of them, or its --layout")
    tried = "; ".join(f"{layout.title}: {lacking(root, layout)}" for layout in LAYOUTS.values())
    advice = "`barm data import` makes one of what annotation tools write"
    raise UserError(f"{root} has none of the known layouts ({advice}). {tried}")
