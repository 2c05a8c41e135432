"""Which classes stand in which picture, and whether every file is sound: one parallel scan, remembered by content."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image
from rich.console import Console
from rich.progress import Progress

from barm.data.files import FileSource, foreground, read_mask
from barm.data.fingerprint import Content, digest
from barm.errors import UserError

BAR_FROM = 500  # pictures from which a scan shows a bar


@dataclass(frozen=True)
class Problem:
    """Something wrong with one picture: its name, the file, what it is and how to mend it."""

    name: str
    path: Path
    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.path}: {self.what}; {self.remedy}"


@dataclass(frozen=True)
class Index:
    """Per picture in the source's order: class ids (none for unsound ones), sizes (0, 0), digests; and all problems."""

    classes: tuple[frozenset[int], ...]
    problems: tuple[Problem, ...]
    sizes: tuple[tuple[int, int], ...] = ()
    contents: tuple[Content, ...] = ()


def checked(source: FileSource, class_list: Path | None = None) -> FileSource:
    """The source with its index.

    Args:
        source: every file of it is looked into.
        class_list: says which classes stand in which picture, instead of the masks (the published lists of ADE20K
            leave out a few that the masks hold: spec/ssul.md section 2.1).

    Raises:
        UserError: if any picture is unsound (says the first and how many) or has no line in the list.
    """
    index = scan(source)
    if index.problems:
        more = f" ({len(index.problems)} such pictures; barm data check {source.root} lists them)"
        raise UserError(f"{index.problems[0]}{more if len(index.problems) > 1 else ''}")
    if class_list is None:
        return source.with_index(index.classes, index.sizes, index.contents)
    listed = read_class_list(class_list)
    absent = [name for name in source.names if name not in listed]
    if absent:
        raise UserError(f"{class_list} has no line for '{absent[0]}' ({len(absent)} such): give the split's whole list")
    return source.with_index([listed[name] for name in source.names], index.sizes, index.contents)


def scan(source: FileSource, *, cache: bool = True) -> Index:
    """Look into every mask and picture, in parallel; what did not change since the last scan is remembered."""
    path = _cache_path(source)
    known: dict[str, Any] = _load(path) if cache else {}
    limit = len(source.class_names) - 1
    entries: dict[str, Any] = {}
    problems: list[Problem] = []
    console = Console(stderr=True)
    show = console.is_terminal and len(source) >= BAR_FROM
    with (
        Progress(console=console, transient=True, disable=not show) as bar,
        ThreadPoolExecutor(cores()) as pool,
    ):
        jobs = pool.map(lambda i: _look(source, i, known.get(source.names[i]), limit), range(len(source)))
        for i, found in enumerate(bar.track(jobs, total=len(source), description=f"scanning {source.split}")):
            if isinstance(found, Problem):
                problems.append(found)
            else:
                entries[source.names[i]] = found
    if cache and entries != known:
        _store(path, entries)
    classes = (frozenset(entries[n]["classes"]) if n in entries else frozenset() for n in source.names)
    sizes = ((0, 0) if n not in entries else (entries[n]["size"][0], entries[n]["size"][1]) for n in source.names)
    contents = (Content(*(entries[n]["content"] if n in entries else ("", ""))) for n in source.names)
    return Index(tuple(classes), tuple(problems), tuple(sizes), tuple(contents))


def _look(source: FileSource, i: int, known: Any, limit: int) -> dict[str, Any] | Problem:
    """An entry of the cache, or the first thing that is wrong."""
    name, image_path, mask_path = source.names[i], source.images[i], source.masks[i]
    maps = source.saliency[i : i + 1]
    try:
        content = mask_path.read_bytes()
        stats = [path.stat() for path in (image_path, *maps)]
    except FileNotFoundError as error:
        return Problem(name, Path(error.filename), "is missing", "add the file or take its name out of the split")
    except OSError as error:
        return Problem(
            name, Path(error.filename or mask_path), f"cannot be read ({error.strerror})", "restore the file"
        )
    seen = [number for stat in stats for number in (stat.st_size, stat.st_mtime_ns)]
    key = [blake2b(content, digest_size=16).hexdigest(), *seen, limit]
    if known is not None and known["key"] == key and "content" in known:
        return dict(known)
    try:
        mask = read_mask(BytesIO(content))  # type: ignore[arg-type]
    except UserError as error:
        return Problem(name, mask_path, str(error).split(": ", 1)[1], "convert it to ids")
    except (OSError, SyntaxError, ValueError) as error:
        return Problem(name, mask_path, f"the mask is not readable ({_short(error)})", "restore the file")
    ids = foreground(mask)
    if ids and max(ids) > limit:
        return Problem(
            name,
            mask_path,
            f"unknown id {max(ids)}: expected 0..{limit} or 255",
            "add the class to classes.txt or mend the mask",
        )
    try:
        with Image.open(image_path) as image:
            size = image.size
            image.draft("RGB", (1, 1))
            image.load()
        picture, *others = (digest(path.read_bytes()) for path in (image_path, *maps))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return Problem(
            name, image_path, f"the picture is not readable ({_short(error)})", "restore the file or take it out"
        )
    if size != mask.size:
        return Problem(
            name,
            mask_path,
            f"the mask is {mask.size[0]}x{mask.size[1]} but its picture {size[0]}x{size[1]}",
            "make both the same size",
        )
    return {
        "key": key,
        "classes": sorted(ids),
        "size": list(size),
        "content": [picture, digest(mask.tobytes()), *others],
    }


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:100] or type(error).__name__


def _cache_path(source: FileSource) -> Path:
    place = blake2b(f"{source.root.resolve()}:{source.split}".encode(), digest_size=10).hexdigest()
    return cache_folder() / f"index-{place}.json"


def cache_folder() -> Path:
    """Where things are remembered between runs: ``$BARM_CACHE``, by default ``~/.cache/barm``."""
    base = os.environ.get("BARM_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "barm"
    return Path(base)


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0))


def _load(path: Path) -> dict[str, Any]:
    try:
        entries: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return entries


def _store(path: Path, entries: dict[str, Any]) -> None:
    """Write the cache; a run does not fail because it cannot be remembered (read-only or full home)."""
    beside = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(json.dumps(entries), "utf-8")
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        Console(stderr=True).print(f"the index is not cached ({error.strerror}): set BARM_CACHE to a writable folder")


def write_class_list(path: Path, source: FileSource) -> None:
    """Write the published list format, ``<name> <id - 1> <id - 1> ...`` per picture.

    Source: spec/ssul.md section 2.1.
    """
    lines = (
        " ".join([source.name(i), *(str(c - 1) for c in sorted(source.classes_in(i)))]) for i in range(len(source))
    )
    path.write_text("".join(f"{line}\n" for line in lines), "utf-8")


def read_class_list(path: Path) -> dict[str, frozenset[int]]:
    """Class ids per picture from the published list format; 255 is left out.

    Raises:
        UserError: for a line that is not a name and numbers.
    """
    if not path.is_file():
        raise UserError(f"no class list {path}: expected '<name> <number> ...' per picture")
    result: dict[str, frozenset[int]] = {}
    for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
        name, *ids = line.split() or [""]
        if not name or not all(i.isdigit() for i in ids):
            raise UserError(f"{path}:{number}: expected '<name> <number> ...', found '{line}'")
        result[name] = frozenset(int(i) + 1 for i in ids) - {255}
    return result


def images_per_class(classes: Sequence[frozenset[int]], num_classes: int) -> list[int]:
    """Number of pictures that show each class id ``1..num_classes``."""
    return [sum(i in ids for ids in classes) for i in range(1, num_classes + 1)]
