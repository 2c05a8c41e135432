"""The index of a split: classes of every image, defects of its files. One parallel scan, cached by content."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import blake2b
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, NamedTuple

from PIL import Image

from barm.data.at_once import room_for
from barm.data.class_values import ADD, mask_key
from barm.data.fingerprint import Content, digest
from barm.data.images import CHANGES, READER, SIDEWAYS, Probe, Unreadable, open_image, probe, upright
from barm.data.index_cache import load_entries, store_entries
from barm.data.mask_values import LABELS, absent, colours, suggests
from barm.data.masks import CONVERT, read_mask
from barm.data.progress import progress_bar
from barm.data.sources.files import FileSource
from barm.data.sources.tree import Remark
from barm.data.text import composed_text
from barm.errors import UserError
from barm.escaping import command
from barm.reading import Unfit, check_regular, check_target, read_bytes, short
from barm.words import natural

Kind = Literal["missing", "mask", "colour", "id", "picture", "size", "map"]


@dataclass(frozen=True)
class Problem:
    """A defect of one image: the image's name, the file, what is wrong and how to mend it."""

    name: str
    path: Path
    what: str
    remedy: str
    kind: Kind = "picture"

    def __str__(self) -> str:
        return f"{self.path}: {self.what}; {self.remedy}"


@dataclass(frozen=True)
class Index:
    """Classes, sizes and defects of a split's images.

    Attributes:
        classes: class ids per image, in the source's order; empty for unsound ones.
        problems: all of them.
        sizes: upright ``(width, height)``; (0, 0) for unsound ones.
        values: number of images whose mask holds each value, those with unknown ids included.
        pixels: number of pixels of each value.
        changes: number of images that the reader changes, by what it does.
        contents: digests; empty ones for unsound images.
        unclear: images that EXIF data turn, where the size does not tell whether the mask was drawn before or after.
        areas: per image, the pixels of each value of its mask; empty for unsound ones.
    """

    classes: tuple[frozenset[int], ...]
    problems: tuple[Problem, ...]
    sizes: tuple[tuple[int, int], ...] = ()
    values: Mapping[int, int] = field(default_factory=dict)
    pixels: Mapping[int, int] = field(default_factory=dict)
    changes: Mapping[str, int] = field(default_factory=dict)
    contents: tuple[Content, ...] = ()
    unclear: int = 0
    areas: tuple[Mapping[int, int], ...] = ()


def checked(source: FileSource, class_list: Path | None = None) -> FileSource:
    """The source with its index; a source with defects is refused.

    Args:
        source: every one of its files is checked.
        class_list: the classes in every image, used instead of the masks' (the published lists of ADE20K
            leave out a few that the masks hold: spec/ssul.md section 2.1).

    Raises:
        UserError: if any image is unsound (says the first and how many) or has no line in the list, or if no image
            of the training split shows a class.
    """
    index = scan(source)
    if index.problems:
        raise UserError(_refusal(source, index))
    if class_list is None:
        if source.split == "train" and not any(index.classes):
            raise UserError(nothing_shown(source, index))
        lacks = absent(source.class_names, index.values) if source.split == "train" else None
        said = source.saying(Remark("warning", f"in training, {lacks}")) if lacks else source
        return said.with_index(index.classes, index.sizes, index.contents, index.areas)
    listed = read_class_list(class_list, source.names)
    missing = [name for name in source.names if name not in listed]
    if missing:
        raise UserError(
            f"{class_list} has no line for '{missing[0]}' ({len(missing)} such): give the split's whole list"
        )
    return source.with_index([listed[name] for name in source.names], index.sizes, index.contents, index.areas)


def nothing_shown(source: FileSource, index: Index) -> str:
    """Explain that no mask of a split holds a class."""
    found = suggests(index.values, len(source.class_names) - 1)
    return f"no image of the {source.split} split of {source.root} shows a class; of the values in its masks: {found}"


def explained(source: FileSource, index: Index) -> str | None:
    """Explain the defects of masks by their likely common cause; None if there is no such explanation."""
    kinds = {p.kind for p in index.problems}
    if "id" in kinds:
        return f"of the values in the masks: {suggests(index.values, len(source.class_names) - 1)}"
    colour = next((p for p in index.problems if p.kind == "colour"), None)
    if colour is None or source.values is not None:
        return None
    with open_image(colour.path) as mask:
        told = mask.mode in ("RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
        return f"{colour.path.name} is an image in colour: {colours(mask)}" if told else None


def _refusal(source: FileSource, index: Index) -> str:
    first, why = index.problems[0], explained(source, index)
    count = len(index.problems)
    call = command(["barm", "data", "check", source.root])
    more = f" ({count} such images; {call} lists them)" if count > 1 else ""
    return f"{first}{more}{f'; {why}' if why else ''}"


def scan(source: FileSource, *, cache: bool = True) -> Index:
    """Scan every mask, image and map in parallel; files that did not change since the last scan come from the cache."""
    path = _cache_path(source)
    known: dict[str, Any] = load_entries(path) if cache else {}
    found: list[_Scan] = []
    with progress_bar(len(source)) as bar, ThreadPoolExecutor(cores()) as pool:
        jobs = pool.map(lambda i: _scan_image(source, i, known.get(source.names[i])), range(len(source)))
        found.extend(bar.track(jobs, total=len(source), description=f"scanning {source.split}"))
    entries = {name: one.entry for name, one in zip(source.names, found, strict=True) if one.entry is not None}
    if cache and entries != known:
        store_entries(path, entries)
    good = [one.entry for one in found if one.entry is not None and one.problem is None]
    return Index(
        tuple(foreground_of(one.values) if one.problem is None else frozenset() for one in found),
        tuple(one.problem for one in found if one.problem is not None),
        tuple(one.size if one.problem is None else (0, 0) for one in found),
        Counter(value for one in found for value in one.values),
        _summed(one.entry for one in found if one.entry is not None),
        Counter(change for entry in good for change in entry["changes"]),
        tuple(_content(source, one) for one in found),
        sum(entry["orientation"] != 1 and not _told(entry) for entry in good),
        tuple({} if one.entry is None else _area(one.entry) for one in found),
    )


def _content(source: FileSource, scanned: _Scan) -> Content:
    """Digests of an image without defects."""
    if scanned.entry is None or scanned.problem is not None:
        return Content("", "")
    return Content(scanned.entry["image"], scanned.entry["mask"], scanned.entry["map"][2] if source.saliency else "")


def _summed(entries: Iterable[Mapping[str, Any]]) -> Counter[int]:
    """Number of pixels of each value in all masks together."""
    pixels: Counter[int] = Counter()
    for entry in entries:
        pixels.update(_area(entry))
    return pixels


def _area(entry: Mapping[str, Any]) -> dict[int, int]:
    return dict(zip(entry["values"], entry["pixels"], strict=True))


def foreground_of(values: Iterable[int]) -> frozenset[int]:
    """Class ids among the values of a mask: neither 0 nor 255."""
    return LABELS & frozenset(values)


class _Scan(NamedTuple):
    """Result of a scan: a cache entry if the image's files are sound, and the first defect."""

    entry: dict[str, Any] | None
    problem: Problem | None
    values: tuple[int, ...] = ()
    size: tuple[int, int] = (0, 0)


def _scan_image(source: FileSource, i: int, known: Any) -> _Scan:
    """Scan the files of an image that are not in the cache."""
    name, image_path, mask_path, limit = source.names[i], source.images[i], source.masks[i], len(source.class_names) - 1
    try:
        content = read_bytes(mask_path)
        stat = image_path.stat()
        check_regular(image_path)
    except FileNotFoundError as error:
        remedy = "add the file or take its name out of the split"
        return _Scan(None, Problem(name, Path(error.filename), "is missing", remedy, "missing"))
    except Unfit as error:
        return _Scan(None, Problem(name, error.path, error.what, "restore the file", "missing"))
    except OSError as error:
        path = Path(error.filename or mask_path)
        return _Scan(None, Problem(name, path, f"cannot be read ({error.strerror})", "restore the file", "missing"))
    key = [READER, mask_key(content, source.values), stat.st_size, stat.st_mtime_ns]
    if _is_entry(known, key):
        scanned = _Scan(dict(known), None)
    else:
        with room_for(content, image_path):
            scanned = _scan_anew(source, i, content, key)
    if scanned.entry is None:
        return scanned
    entry = scanned.entry
    values, size = tuple(entry["values"]), (entry["size"][0], entry["size"][1])
    ids, problem = foreground_of(values), None
    if ids and max(ids) > limit:
        what = f"unknown id {max(ids)}: expected 0..{limit} or 255"
        problem = Problem(name, mask_path, what, "add the class to classes.txt or mend the mask", "id")
    elif source.saliency:
        problem = _scan_map(name, source.saliency[i], size, entry)
    return _Scan(entry, problem, values, size)


def _is_entry(known: Any, key: list[Any]) -> bool:
    """Whether a value read from the cache is a complete entry for these files; if not, they are scanned again."""
    fields = {
        "values": list,
        "pixels": list,
        "size": list,
        "changes": list,
        "orientation": int,
        "image": str,
        "mask": str,
    }
    return (
        isinstance(known, dict)
        and known.get("key") == key
        and all(isinstance(known.get(name), kind) for name, kind in fields.items())
        and all(type(value) is int and 0 <= value < 256 for value in known["values"])
        and [type(number) for number in known["pixels"]] == [int] * len(known["values"])
        and len(known["size"]) == 2
        and all(type(side) is int and side > 0 for side in known["size"])
        and all(change in CHANGES for change in known["changes"])
    )


def _scan_anew(source: FileSource, i: int, content: bytes, key: list[Any]) -> _Scan:
    """Scan all files of an image: a cache entry, or the first defect."""
    name, image_path, mask_path = source.names[i], source.images[i], source.masks[i]
    try:
        mask = read_mask(BytesIO(content), source.values)
        turned = b"eXIf" in content and upright(open_image(BytesIO(content)))[1] != 1
    except Unfit as error:
        return _Scan(None, Problem(name, mask_path, error.what, ADD if source.values else CONVERT, "colour"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        what = f"the mask is not readable ({short(error, 100)})"
        return _Scan(None, Problem(name, mask_path, what, "restore the file", "mask"))
    if turned:
        what, remedy = "the mask has EXIF data that turn it", "save it without, as it lies over the upright image"
        return _Scan(None, Problem(name, mask_path, what, remedy, "mask"))
    pixels = {value: number for value, number in enumerate(mask.histogram()) if number}
    values = tuple(pixels)
    try:
        seen = probe(image_path)
    except Unreadable as error:
        return _Scan(None, Problem(name, image_path, error.what, error.remedy), values)
    except UserError as error:
        return _Scan(None, Problem(name, image_path, str(error), "restore the file or take it out"), values)
    if seen.size != mask.size:
        return _Scan(None, _other_size(name, mask_path, mask.size, seen), values)
    entry = {
        "key": key,
        "values": list(values),
        "pixels": list(pixels.values()),
        "size": list(seen.size),
        "changes": list(seen.changes),
        "orientation": seen.orientation,
        "image": digest(read_bytes(image_path)),
        "mask": digest(mask.tobytes()),
    }
    return _Scan(entry, None)


def _other_size(name: str, path: Path, size: tuple[int, int], seen: Probe) -> Problem:
    """Describe a mask whose size does not fit its image, or fits it only before EXIF turns the image."""
    (w, h), (width, height) = size, seen.size
    if size == seen.stored:
        what = f"the mask is {w}x{h} as the image is stored, but upright (EXIF orientation {seen.orientation}) it is "
        remedy = "turn the mask like the image, or take the orientation out of the image (docs/data.md)"
        return Problem(name, path, f"{what}{width}x{height}", remedy, "size")
    what = f"the mask is {w}x{h} but its image {width}x{height}"
    return Problem(name, path, what, "make both the same size", "size")


def _scan_map(name: str, path: Path, size: tuple[int, int], entry: dict[str, Any]) -> Problem | None:
    """Describe the defect of an image's saliency map; a sound map is recorded in the entry."""
    try:
        check_regular(path)
        stat = path.stat()
        key, known = [stat.st_size, stat.st_mtime_ns], entry.get("map")
        if isinstance(known, list) and len(known) == 3 and known[:2] == key and isinstance(known[2], str):
            return None
        with room_for(path):
            found = read_mask(path)
    except FileNotFoundError:
        remedy = "add the map, or take the folder away to do without maps"
        return Problem(name, path, "the saliency map is missing", remedy, "map")
    except Unfit as error:
        what = error.what.replace("a mask holds one class id per pixel", "a map has one channel")
        return Problem(name, path, what, "save it as 8-bit grey", "map")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return Problem(name, path, f"the saliency map is not readable ({short(error, 100)})", "restore the file", "map")
    if found.size != size:
        what = f"the saliency map is {found.size[0]}x{found.size[1]} but its image {size[0]}x{size[1]}"
        return Problem(name, path, what, "make both the same size", "map")
    entry["map"] = [*key, digest(read_bytes(path))]
    return None


def _told(entry: Mapping[str, Any]) -> bool:
    """Whether the mask's size shows that it was drawn on the turned image."""
    return bool(entry["orientation"] >= SIDEWAYS and entry["size"][0] != entry["size"][1])


def _cache_path(source: FileSource) -> Path:
    place = blake2b(f"{source.root.resolve()}:{source.split}".encode(), digest_size=10).hexdigest()
    return cache_folder() / f"index-{place}.json"


def cache_folder() -> Path:
    """The folder of the caches: ``$BARM_CACHE``, by default ``~/.cache/barm``."""
    base = os.environ.get("BARM_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "barm"
    return Path(base)


def cores() -> int:
    """Number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def write_class_list(path: Path, source: FileSource) -> None:
    """Write the published list format, ``<name> <id - 1> <id - 1> ...`` per image.

    Source: spec/ssul.md section 2.1.
    """
    lines = (
        " ".join([source.name(i), *(str(c - 1) for c in sorted(source.classes_in(i)))]) for i in range(len(source))
    )
    check_target(path)
    path.write_text("".join(f"{line}\n" for line in lines), "utf-8")


def read_class_list(path: Path, names: Collection[str] = ()) -> dict[str, frozenset[int]]:
    """Class ids per image from the published list format; 255 is left out.

    Args:
        path: of the list.
        names: names that may be in it; needed if they contain spaces.

    Raises:
        UserError: for a line that is not a name and numbers.
    """
    if not path.is_file():
        raise UserError(f"no class list {path}: expected '<name> <number> ...' per image")
    spaced = {name for name in names if len(name.split()) > 1}
    result: dict[str, frozenset[int]] = {}
    for number, line in enumerate(composed_text(path).splitlines(), start=1):
        words = line.split() or [""]
        ends = (n for n in range(len(words), 1, -1) if spaced and " ".join(words[:n]) in spaced)
        end = next(ends, 1)
        name, ids = " ".join(words[:end]), words[end:]
        found = [natural(i) for i in ids]
        if not name or None in found:
            raise UserError(f"{path}:{number}: expected '<name> <number> ...', found '{line[:200]}'")
        result[name] = frozenset(i + 1 for i in found if i is not None) - {255}
    return result
