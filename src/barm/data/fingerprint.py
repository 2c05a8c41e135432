"""A short record of a split, kept with a run: names, order and contents of its images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple

from barm.data.base import Source
from barm.words import count

Fingerprint = Mapping[str, Any]  # plain values, as JSON keeps them


class Content(NamedTuple):
    """Digests of an image's file, of its mask's ids, and of the files of its further maps ('' if there are none).

    The mask's digest is of its ids, not of the file: a mask that was only saved again is the same.
    """

    image: str
    mask: str
    maps: str = ""


def digest(content: bytes) -> str:
    """Digest of 8 bytes as text. Different contents have the same digest once in 10^19.

    >>> digest(b"")
    'e4a6a0577479b2b4'
    """
    return blake2b(content, digest_size=8).hexdigest()


def fingerprint(source: Source) -> Fingerprint:
    """Record of a split: its class names, those of its masks' ids, and by image name the size, classes and content.

    Sizes and contents are those that the index has found (`barm.data.index.checked`); a user's own source without
    them is recorded by the names and classes of its images. Nothing is read here.
    """
    sizes: Sequence[Sequence[int]] = getattr(source, "sizes", ())
    contents: Sequence[Content] = getattr(source, "contents", ())
    records = {
        source.name(i): {
            "size": [int(side) for side in sizes[i]] if sizes else None,
            "classes": sorted(int(c) for c in source.classes_in(i)),
            **(contents[i]._asdict() if contents else {}),
        }
        for i in range(len(source))
    }
    names = source.class_names
    return {"names": list(names), "in_masks": list(getattr(source, "own_names", names)), "pictures": records}


def changed(theirs: Fingerprint, ours: Fingerprint) -> str | None:
    """Describe the first difference between two records of a split; None if there is none.

    >>> one = {"in_masks": ["background", "cat"], "pictures": {"a": {"classes": [1]}, "b": {"classes": [1]}}}
    >>> changed(one, {**one, "pictures": {"a": {"classes": [1]}}})
    "2 images there, 1 here: 'b' is gone"
    """
    if theirs == ours and list(theirs["pictures"]) == list(ours["pictures"]):
        return None
    for names in ("names", "in_masks"):
        if theirs.get(names) != ours.get(names):
            return _classes(theirs[names], ours[names], "the masks' class" if names == "in_masks" else "class")
    there, here = theirs["pictures"], ours["pictures"]
    gone, new = ([name for name in a if name not in b] for a, b in ((there, here), (here, there)))
    if gone or new:
        told = [f"'{names[0]}' is {what}" for names, what in ((gone, "gone"), (new, "new")) if names]
        return f"{count(len(there), 'images')} there, {len(here)} here: {' and '.join(told)}"
    others = [name for name in there if _differs(there[name], here[name])]
    if others:
        more = f" ({len(others)} such images)" if len(others) > 1 else ""
        return _image(others[0], there[others[0]], here[others[0]], ours["names"]) + more
    first = next((names for names in zip(there, here, strict=True) if names[0] != names[1]), None)
    if first is None:  # only the maps, at which one side has not looked
        return None
    return f"the images stand in another order: '{first[0]}' there, '{first[1]}' here"


def _classes(there: Sequence[str], here: Sequence[str], what: str) -> str:
    number = next(i for i in range(max(len(there), len(here))) if there[i : i + 1] != here[i : i + 1])
    names = [f"'{names[number]}'" if number < len(names) else "missing" for names in (there, here)]
    return f"{what} {number} is {names[0]} there, {names[1]} here"


def _image(name: str, there: Mapping[str, Any], here: Mapping[str, Any], classes: Sequence[str]) -> str:
    """Describe the first difference between two records of an image."""
    key = next((k for k in ("size", "classes", "mask", "image", "maps") if there.get(k) != here.get(k)), "record")
    if key == "size":
        sizes = ["x".join(map(str, one["size"] or ["unknown"])) for one in (there, here)]
        return f"'{name}' is {sizes[0]} there, {sizes[1]} here"
    if key == "classes":
        shown = [", ".join(_named(i, classes) for i in one["classes"]) or "no class" for one in (there, here)]
        return f"'{name}' shows {shown[0]} there, {shown[1]} here"
    return f"'{name}' has another {'saliency map' if key == 'maps' else key}"


def _differs(there: Mapping[str, Any], here: Mapping[str, Any]) -> bool:
    """Whether the image differs. Its map counts only if both records have it, since only some methods read maps."""
    both = bool(there.get("maps")) and bool(here.get("maps"))
    one, other = ({k: v for k, v in record.items() if both or k != "maps"} for record in (there, here))
    return one != other


def _named(class_id: int, classes: Sequence[str]) -> str:
    return classes[class_id] if class_id < len(classes) else str(class_id)
