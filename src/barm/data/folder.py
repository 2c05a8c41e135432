"""A data set of one's own: images/, masks/ and classes.txt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path

from barm.data.files import IMAGE_SUFFIXES, Files, FileSource, find_root, names_and_colours, pairs, read_lines
from barm.errors import UserError

VAL_SHARE = 0.2


def open_folder(root: Path, split: str, class_names: Sequence[str] = ()) -> FileSource:
    """A split of a plain folder.

    The split is given by sub-folders ``images/train``, ``images/val`` (and the same below masks), or by lists of stems
    ``train.txt`` and ``val.txt``. Where nothing says what is held out, it is a fifth of the pictures, chosen by a hash
    of their names, and at least one.

    Args:
        root: holds images/, masks/ and classes.txt; its parent is accepted.
        split: ``train`` or ``val``.
        class_names: of the ids 1, 2, ..., where there is no ``classes.txt``.

    Raises:
        UserError: for missing folders, lists or files, or two pictures of one name.
    """
    root = find_root(root, ("images", "masks"), "folder")
    below = split if (root / "images" / split).is_dir() else "train" if (root / "images/train").is_dir() else ""
    images, masks = Files(root / "images" / below, IMAGE_SUFFIXES), Files(root / "masks" / below, (".png",))
    _no_twins(root / "images" / below)
    apart = below and (root / "images/val").is_dir()
    names = sorted(images) if apart else _split(root, split, sorted(images))
    image_files, mask_files = pairs(root, split, images, masks, names)
    known, palette = names_and_colours(root, None, class_names)
    return FileSource(root, split, tuple(names), image_files, mask_files, known, palette)


def _split(root: Path, split: str, names: list[str]) -> list[str]:
    """Those of the pictures that belong to a split by the lists, or by a hash of their names."""
    lists = {name: root / f"{name}.txt" for name in ("train", "val")}
    if lists[split].is_file():
        return read_lines(lists[split])
    if split == "train" and lists["val"].is_file():
        held_out = set(read_lines(lists["val"]))
        return [n for n in names if n not in held_out]
    if lists["train"].is_file():
        names = read_lines(lists["train"])
    held_out = {n for n in names if _share(n) < VAL_SHARE} or set(sorted(names, key=_share)[:1])
    return [n for n in names if (n in held_out) == (split == "val")]


def _share(name: str) -> float:
    """A number in 0..1 that depends on the name alone."""
    return int.from_bytes(blake2b(name.encode(), digest_size=4).digest(), "big") / 2**32


def _no_twins(folder: Path) -> None:
    stems = Counter(f.stem for f in folder.iterdir() if f.suffix.lower() in IMAGE_SUFFIXES)
    twins = [stem for stem, count in stems.items() if count > 1]
    if twins:
        raise UserError(f"{folder}: two pictures are called '{min(twins)}'; rename one, masks are matched by name")
