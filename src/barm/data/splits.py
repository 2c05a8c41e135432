"""Divide images into training and validation by a hash of their names, groups of images as one."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from pathlib import Path

from barm.errors import UserError
from barm.reading import check_target
from barm.writing import temporary

VAL_SHARE = 0.2


def divide(names: Sequence[str], share: float = VAL_SHARE, group_by: str = "") -> dict[str, list[str]]:
    """Divide images into ``train`` and ``val``.

    Each group, by itself, is held out if the hash of its name falls into the share, so that an image that is added
    later moves no other one. Of several groups at least one is held out, and one is not; a single one is not.

    Args:
        names: of the images.
        share: of the groups that is held out, 0 to 1; 0 holds out none.
        group_by: a regular expression; what its first group, or all of it, matches is the name of an image's group.
            Without it, every image is its own group.

    Raises:
        UserError: for a share or pattern that makes no sense, or that does not match a name.

    >>> divide(["film1_01", "film1_02", "film2_01"], 0.5, "(.*)_")
    {'train': ['film1_01', 'film1_02'], 'val': ['film2_01']}
    """
    if not 0 <= share < 1:
        raise UserError(f"expected a share of 0 to less than 1 for validation, got {share:g}")
    groups = _groups(names, group_by)
    order = sorted(groups, key=_hash)
    held_out = {name for name in order if _hash(name) < share} or set(order[: 1 if share else 0])
    if len(held_out) == len(order):
        if len(order) == 1 and group_by:
            raise UserError(f"'{group_by}' puts all images into one group, which cannot be divided: expect several")
        held_out = set(order[:-1])
    members = {name for group in held_out for name in groups[group]}
    return {
        "train": [name for name in names if name not in members],
        "val": [name for name in names if name in members],
    }


def write_lists(root: Path, parts: Mapping[str, Sequence[str]]) -> None:
    """Write ``train.txt`` and ``val.txt``, so that they divide the images at any moment, also if the work is cut.

    Where only one of the lists is there, all other images are the other split.

    Args:
        root: the folder of the lists.
        parts: names of ``train`` and ``val``.

    Raises:
        UserError: for a name that no line can hold.
    """
    for name in (name for names in parts.values() for name in names):
        if name.splitlines() != [name.strip()]:
            raise UserError(f"the image name {ascii(name)[:80]} cannot stand in a list of names: rename the image")
    for part in ("train", "val"):
        check_target(root / f"{part}.txt")
    with temporary(root / "train.txt") as train, temporary(root / "val.txt") as val:
        for path, part in ((train, "train"), (val, "val")):
            path.write_text("".join(f"{name}\n" for name in parts[part]), "utf-8")
        (root / "val.txt").unlink(missing_ok=True)
        train.replace(root / "train.txt")
        val.replace(root / "val.txt")


def _groups(names: Sequence[str], group_by: str) -> dict[str, list[str]]:
    if not group_by:
        return {name: [name] for name in names}
    try:
        pattern = re.compile(group_by)
    except re.error as error:
        raise UserError(f"'{group_by}' is no regular expression: {error}") from None
    groups = defaultdict[str, list[str]](list)
    for name in names:
        found = pattern.search(name)
        if found is None:
            raise UserError(f"'{group_by}' does not match '{name}': expected a pattern that matches every name")
        groups[found[1] if pattern.groups and found[1] is not None else found[0]].append(name)
    return dict(groups)


def _hash(name: str) -> float:
    """Hash a name to a number in 0..1."""
    return int.from_bytes(blake2b(name.encode(), digest_size=4).digest(), "big") / 2**32
