"""ADE20K, the scene parsing challenge of 2016. Source: spec/ssul.md section 2."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from barm.data.files import Files, FileSource, find_root, names_and_colours, pairs
from barm.data.palette import published


def open_ade(root: Path, split: str, class_names: Sequence[str] = ()) -> FileSource:
    """A split of ADEChallengeData2016; id 0 (other) takes the place of the background.

    Args:
        root: holds images/ and annotations/ with training/ and validation/; its parent is accepted.
        split: ``train`` or ``val``.
        class_names: of the ids 1, 2, ..., where there is no ``classes.txt``.

    Raises:
        UserError: for missing folders or files.
    """
    folder = {"train": "training", "val": "validation"}[split]
    root = find_root(root, (f"images/{folder}", f"annotations/{folder}"), "ADE20K")
    images, masks = (
        Files(root / "images" / folder, (".jpg", ".jpeg")),
        Files(root / "annotations" / folder, (".png",)),
    )
    names = sorted(images)
    image_files, mask_files = pairs(root, split, images, masks, names)
    known, palette = names_and_colours(root, published("ade"), class_names)
    return FileSource(root, split, tuple(names), image_files, mask_files, known, palette)
