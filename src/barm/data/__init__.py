"""Data: sources, their index, transforms, and the pictures of a step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from barm.data.ade import open_ade
from barm.data.files import FileSource
from barm.data.folder import open_folder
from barm.data.voc import open_voc
from barm.errors import UserError

SOURCES: dict[str, Callable[[Path, str, Sequence[str]], FileSource]] = {
    "voc": open_voc,
    "ade": open_ade,
    "folder": open_folder,
}


def open_source(layout: str, root: Path | str, split: str, names: Sequence[str] = ()) -> FileSource:
    """Open a split (``train`` or ``val``) of the data set at `root`.

    Args:
        layout: ``voc``, ``ade`` or ``folder``; ``auto`` looks which one it is.
        root: the data set's folder, or its parent.
        split: ``train`` or ``val``.
        names: of the ids 1, 2, ..., where the data set has no ``classes.txt``.
    """
    root = Path(root)
    return SOURCES[detect_layout(root) if layout == "auto" else layout](root, split, names)


def detect_layout(root: Path) -> str:
    """Which layout a folder, or one of its children, has.

    Raises:
        UserError: if it has none.
    """
    if not root.is_dir():
        raise UserError(f"no folder {root}: expected a data set there")
    for folder in (root, *sorted(p for p in root.iterdir() if p.is_dir())):
        if (folder / "JPEGImages").is_dir():
            return "voc"
        if (folder / "annotations").is_dir() and (folder / "images").is_dir():
            return "ade"
        if (folder / "masks").is_dir() and (folder / "images").is_dir():
            return "folder"
    raise UserError(
        f"{root} has none of the known layouts: expected JPEGImages + SegmentationClassAug (VOC), images + annotations "
        "(ADE20K), or images + masks + classes.txt"
    )


__all__ = ["SOURCES", "FileSource", "detect_layout", "open_source"]
