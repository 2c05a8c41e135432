"""A data set of one's own: images/, masks/ and classes.txt."""

from __future__ import annotations

from hashlib import blake2b
from pathlib import Path

from barm.data.files import IMAGE_SUFFIXES, Files, FileSource, find_root, names_and_colours, pairs, read_lines
from barm.errors import UserError

VAL_SHARE = 0.2


def open_folder(root: Path, split: str) -> FileSource:
    """A split of a plain folder.

    The split is given by sub-folders ``images/train``, ``images/val`` (and the same below masks), or by lists of stems
    ``train.txt`` and ``val.txt``, or else a fifth of the pictures, chosen by a hash of their names, is held out.

    Args:
        root: holds images/, masks/ and classes.txt; its parent is accepted.
        split: ``train`` or ``val``.

    Raises:
        UserError: for missing folders, lists or files, or two pictures of one name.
    """
    root = find_root(root, ("images", "masks"), "folder")
    below = split if (root / "images" / split).is_dir() else ""
    images, masks = Files(root / "images" / below, IMAGE_SUFFIXES), Files(root / "masks" / below, (".png",))
    _no_twins(root / "images" / below)
    if below:
        names = sorted(images)
    elif (root / f"{split}.txt").is_file():
        names = read_lines(root / f"{split}.txt")
    else:
        names = [n for n in sorted(images) if (_share(n) < VAL_SHARE) == (split == "val")]
    image_files, mask_files = pairs(root, split, images, masks, names)
    class_names, palette = names_and_colours(root, None)
    return FileSource(root, split, tuple(names), image_files, mask_files, class_names, palette)


def _share(name: str) -> float:
    """A number in 0..1 that depends on the name alone."""
    return int.from_bytes(blake2b(name.encode(), digest_size=4).digest(), "big") / 2**32


def _no_twins(folder: Path) -> None:
    stems = [f.stem for f in folder.iterdir() if f.suffix.lower() in IMAGE_SUFFIXES]
    twins = {s for s in stems if stems.count(s) > 1} if len(set(stems)) != len(stems) else set()
    if twins:
        raise UserError(f"{folder}: two pictures are called '{min(twins)}'; rename one, masks are matched by name")
