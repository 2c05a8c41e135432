"""The layout of a user's own data set: images/, masks/ and classes.txt."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

from barm.data.class_names import names_and_colours
from barm.data.class_values import FILE, ClassValues, read_class_values
from barm.data.images import IMAGE_SUFFIXES
from barm.data.sources.files import FileSource, pairs
from barm.data.sources.tree import (
    HELD_BACK,
    MASK_SUFFIXES,
    SPLITS,
    Files,
    Layout,
    Remark,
    find_root,
    listed,
    loose,
    no_twins,
    other_folders,
    split_folder,
    strangers,
    unused,
)
from barm.data.splits import VAL_SHARE, divide, write_lists
from barm.errors import UserError

IMAGES, MASKS = ("images", "imgs", "img_dir"), ("masks", "labels", "ann_dir")
SALIENCY = "saliency"
MASK_ENDINGS = ("_mask", "_masks", "_label", "_labels", "_seg", "_gt", "-mask", "-label")  # of a.jpg: a_mask.png
LAYOUT = Layout("folder", (IMAGES, MASKS))
NAMED = (*SPLITS["train"], *SPLITS["val"], *HELD_BACK)  # sub-folders that are no part of an undivided folder


def open_folder(root: Path, split: str, class_names: Sequence[str] = ()) -> FileSource:
    """Open a split of a plain folder.

    The folders may have the other names in `IMAGES` and `MASKS`, and a mask's name may end as in `MASK_ENDINGS`. The
    split is given by sub-folders ``images/train``, ``images/val`` (and the same below masks), or by lists of names
    ``train.txt`` and ``val.txt``. Where nothing says what is held out, it is a fifth of the images, chosen by a hash
    of their names, and at least one. Other sub-folders are part of the names: ``images/a/b.jpg`` and ``masks/a/b.png``.
    Saliency maps of the training images are in ``saliency/``, which has the sub-folders of ``images/``.

    Args:
        root: holds images/, masks/ and classes.txt, or is up to two levels above.
        split: ``train`` or ``val``.
        class_names: of the ids 1, 2, ..., where there is neither ``classes.txt`` nor ``classes.toml``.

    Raises:
        UserError: for missing folders, lists or files, or two images of one name.
    """
    root = find_root(root, LAYOUT)
    parts = _Parts(_part(root, IMAGES), _part(root, MASKS), root / SALIENCY)
    place = _place(parts, split)
    images = Files(place.images, IMAGE_SUFFIXES, deep=True, without=() if place.divided else NAMED)
    masks = Files(place.masks, MASK_SUFFIXES, deep=True, without=() if place.divided else NAMED)
    no_twins(images, "images")
    no_twins(masks, "masks")
    if not masks and masks.others:
        raise UserError(
            f"{masks.folder} holds no mask, but files such as {masks.others[0].name}: `barm data import` makes masks "
            "of what annotation tools write"
        )
    _without_endings(masks, images)
    names = sorted(images) if place.whole else _split(root, split, images)
    used = names if place.whole else {*names, *_split(root, "val" if split == "train" else "train", images)}
    image_files, mask_files = pairs(root, split, images, masks, names)
    values = _class_values(root)
    known, palette = names_and_colours(root, None, values.names if values else class_names)
    remarks = [
        *unused(images, used, "images", "in neither list"),
        *unused(masks, images, "masks", "without an image"),
        *strangers(images, "images"),
        *strangers(masks, "masks"),
        *_beside(parts),
    ]
    return FileSource(
        root,
        split,
        tuple(names),
        image_files,
        mask_files,
        known,
        palette,
        _maps(parts.saliency, place.saliency, names) if split == "train" else (),
        values=values,
        remarks=tuple(dict.fromkeys(remarks)),
        maps_folder=place.saliency,
    )


def _class_values(root: Path) -> ClassValues | None:
    """Read the folder's ``classes.toml``, if it has one."""
    path = root / FILE
    if not path.exists():
        return None
    if (root / "classes.txt").exists():
        raise UserError(f"{root} has a classes.txt beside {FILE}: keep the one that says what the masks hold")
    return read_class_values(path)


def write_split(
    root: Path | str, share: float = VAL_SHARE, group_by: str = "", *, overwrite: bool = False
) -> dict[str, int]:
    """Write ``train.txt`` and ``val.txt`` of a folder; returns the numbers of images.

    Args:
        root: holds images/, which must not be divided by sub-folders. One for tests is left out.
        share: of the images for validation.
        group_by: as in `barm.data.splits.divide`.
        overwrite: replace lists that are there.

    Raises:
        UserError: for a folder without images, or one that is divided already.
    """
    root = Path(root)
    there = [path for part in SPLITS if (path := root / f"{part}.txt").exists()]
    if there and not overwrite:
        raise UserError(f"{there[0]} divides the images already: keep it, or divide them anew with --overwrite")
    folder = _part(root, IMAGES)
    divided = [place for part in SPLITS if (place := split_folder(folder, part)) is not None]
    if divided:
        raise UserError(f"{divided[0]} divides the images already: a split by lists needs all of them in {folder}")
    parts = divide(sorted(Files(folder, IMAGE_SUFFIXES, deep=True, without=NAMED)), share, group_by)
    write_lists(root, parts)
    return {part: len(names) for part, names in parts.items()}


def _part(root: Path, names: Sequence[str]) -> Path:
    """The folder of images or masks, under any of its possible names.

    Raises:
        UserError: if there are several, or none.
    """
    found = [root / name for name in names if (root / name).is_dir()]
    if len(found) > 1:
        raise UserError(f"{root} has {found[0].name} and {found[1].name}: keep the folder that is meant, or rename one")
    if not found:
        raise UserError(f"no folder {root / names[0]}: expected the {names[0]} in it")
    return found[0]


def _without_endings(masks: Files, images: Collection[str]) -> None:
    """Name masks like their images: ``a_mask`` becomes ``a`` where there is an image ``a`` and none ``a_mask``.

    Raises:
        UserError: if an image has two masks then.
    """
    for name in [name for name in masks if name not in images]:
        ending = next((end for end in MASK_ENDINGS if name.endswith(end) and name.removesuffix(end) in images), None)
        if ending is None:
            continue
        image = name.removesuffix(ending)
        if image in masks:
            raise UserError(f"{masks[image]} and {masks[name]} may both be the mask of '{image}': keep one of them")
        masks[image] = masks.pop(name)


class _Parts(NamedTuple):
    """The folders of a data set; that of saliency maps need not exist."""

    images: Path
    masks: Path
    saliency: Path


class _Place(NamedTuple):
    """The folders of a split, whether they are the split's own, and whether all of their files belong to it."""

    images: Path
    masks: Path
    saliency: Path
    divided: bool
    whole: bool


def _place(parts: _Parts, split: str) -> _Place:
    """Find the split's sub-folders, or the folders that lists or a hash divide."""
    images, masks = ({s: split_folder(part, s) for s in SPLITS} for part in (parts.images, parts.masks))
    own, train, val = images[split], images["train"], images["val"]
    if own is None and split == "val":
        own = train
    if own is None:  # images beside images/val
        return _Place(parts.images, parts.masks, parts.saliency, False, val is not None)
    of = split if images[split] is not None else "train"
    maps = split_folder(parts.saliency, of) if parts.saliency.is_dir() else None
    return _Place(
        own,
        masks[of] or parts.masks / own.name,
        maps or parts.saliency / own.name,
        divided=True,
        whole=val is not None,
    )


def _maps(saliency: Path, folder: Path, names: Sequence[str]) -> tuple[Path, ...]:
    """Saliency maps of the named images in `folder`, if the data set has a folder `saliency`."""
    if not saliency.is_dir():
        return ()
    found = Files(folder, (".png",), deep=True) if folder.is_dir() else {}
    return tuple(found.get(name, folder / f"{name}.png") for name in names)


def _beside(parts: _Parts) -> list[Remark]:
    """Files beside the sub-folders of the splits."""
    remarks = list[Remark]()
    for part, suffixes in ((parts.images, IMAGE_SUFFIXES), (parts.masks, MASK_SUFFIXES)):
        used = [place for s in SPLITS if (place := split_folder(part, s)) is not None]
        if split_folder(parts.images, "train") is not None:
            remarks += [*other_folders(part, used), *loose(part, suffixes)]
        else:
            remarks += [r for r in other_folders(part, used) if r.level == "note"]
    return remarks


def _split(root: Path, split: str, images: Files) -> list[str]:
    """Select the images of a split by the lists, or by a hash of their names."""
    lists, names = {name: root / f"{name}.txt" for name in ("train", "val")}, sorted(images)
    if lists[split].is_file():
        return listed(lists[split], images)
    other = lists["val" if split == "train" else "train"]
    if other.is_file():
        taken = set(listed(other, images))
        return [n for n in names if n not in taken]
    return divide(names, VAL_SHARE)[split]
