"""`barm data check`: report every error and every likely mistake of a data set at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from filecmp import cmp
from pathlib import Path

from barm.data.image_sizes import by_side, middle
from barm.data.index import Index, Problem, explained, nothing_shown, scan
from barm.data.left_right import flip_warning
from barm.data.mask_values import absent, listing
from barm.data.sources import detect_layout, open_source
from barm.data.sources.files import FileSource
from barm.data.sources.tree import Remark
from barm.errors import UserError
from barm.labels import TABLES
from barm.words import count, verb

CHANGED = {  # what the reader does to images
    "turned": "turned upright by their EXIF data",
    "white": "with transparent parts, which are laid on white",
    "deep": "of 16 bits, scaled to 8",
    "frames": "of several frames, of which the first is used",
}


@dataclass(frozen=True)
class SizesReport:
    """Smallest, median and largest ``(width, height)`` of images, by the longer side."""

    smallest: tuple[int, int]
    middle: tuple[int, int]
    largest: tuple[int, int]
    different: int

    def __str__(self) -> str:
        if self.different == 1:
            return f"all {_by(self.middle)}"
        return f"{_by(self.smallest)} to {_by(self.largest)}, the median {_by(self.middle)}"


@dataclass(frozen=True)
class SplitReport:
    """One split.

    Attributes:
        split: ``train`` or ``val``.
        num_images: images.
        per_class: images per class, in the order of `Report.class_names`, without background.
        values: images per value found in the masks, background and unknown values included.
        pixels: pixels per value.
        sizes: of this split's images.
    """

    split: str
    num_images: int
    per_class: tuple[int, ...]
    values: Mapping[int, int] = field(default_factory=dict)
    pixels: Mapping[int, int] = field(default_factory=dict)
    sizes: SizesReport | None = None


@dataclass(frozen=True)
class Report:
    """Everything that the check found.

    Attributes:
        layout: the data set's.
        class_names: background first.
        splits: those that can be opened.
        problems: of images; training refuses them.
        broken: of the data set as a whole; training refuses them.
        warnings: what is likely a mistake.
        notes: what is worth knowing.
        reasons: the common cause of the masks' problems.
    """

    layout: str
    class_names: tuple[str, ...]
    splits: tuple[SplitReport, ...]
    problems: tuple[Problem, ...]
    broken: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        """Summarise in one line: number of problems and warnings, and the most important one."""
        wrong = len(self.broken) + len(self.problems)
        warned = count(len(self.warnings), "warnings")
        if wrong:
            return f"{count(wrong, 'problems')}: {(*self.broken, *self.reasons, *map(str, self.problems))[0]}"
        return f"no problems, {warned}: {self.warnings[0]}" if self.warnings else "no problems"


def check_folder(root: Path | str, layout: str = "auto") -> Report:
    """Scan both splits of a data set.

    Raises:
        UserError: if no layout can be recognised.
    """
    root = Path(root)
    layout = detect_layout(root) if layout == "auto" else layout
    opened: dict[str, FileSource] = {}
    broken: list[str] = []
    reasons: list[str] = []
    for split in ("train", "val"):
        try:
            opened[split] = open_source(layout, root, split)
        except UserError as error:
            if str(error) not in broken:
                broken.append(str(error))
    found = {split: scan(replace(source, saliency=())) for split, source in opened.items()}
    problems = [p for index in found.values() for p in index.problems]
    maps = [p for source in opened.values() if source.saliency for p in scan(source).problems if p.kind == "map"]
    names = next((source.class_names for source in opened.values()), ())
    remarks = list(dict.fromkeys(r for source in opened.values() for r in source.remarks))
    for split, source in opened.items():
        why = explained(source, found[split])
        reasons += [f"{split}: {why}"] if why else []
        if not found[split].problems and not any(found[split].classes):
            nothing = nothing_shown(source, found[split])
            if split == "train":
                broken.append(nothing)
            else:
                remarks.append(Remark("warning", nothing))
        remarks += [Remark("note", text) for text in _changed(split, found[split])]
    if len(opened) == 2:
        broken += [text for text in [leak(opened["train"], opened["val"])] if text]
    remarks += _map_lines(opened, maps)
    mixed = flip_warning(names[1:], TABLES)  # both flip by default
    remarks += [Remark("warning", mixed)] if mixed else []
    if not broken and not problems:
        remarks += _class_lines(names, found)
    return Report(
        layout,
        names,
        tuple(_split_report(split, opened[split], index) for split, index in found.items()),
        tuple(problems),
        tuple(broken),
        tuple(r.text for r in remarks if r.level == "warning"),
        tuple(r.text for r in remarks if r.level == "note"),
        tuple(reasons),
    )


def leak(train: FileSource, val: FileSource) -> str | None:
    """Report images that are in both splits in one line; None if there are none.

    Two files of one name in two folders are the same image if their bytes are equal.
    """
    theirs = dict(zip(val.names, val.images, strict=True))
    both = [n for n, path in zip(train.names, train.images, strict=True) if n in theirs and _same(path, theirs[n])]
    if not both:
        return None
    return (
        f"{count(len(both), 'images')} of {val.root} {verb(len(both), 'are')} in the training and in the "
        f"validation split, such as '{both[0]}': scores would be too high; take them out of one, or allow it with "
        "--set data.allow_shared=true"
    )


def _same(one: Path, other: Path) -> bool:
    return one == other or (one.is_file() and other.is_file() and cmp(one, other, shallow=False))


def images_per_class(classes: Sequence[frozenset[int]], num_classes: int) -> list[int]:
    """Number of images that show each class id ``1..num_classes``."""
    return [sum(i in ids for ids in classes) for i in range(1, num_classes + 1)]


def _split_report(split: str, source: FileSource, index: Index) -> SplitReport:
    per_class = images_per_class(index.classes, len(source.class_names) - 1)
    values, pixels = (dict(sorted(counts.items())) for counts in (index.values, index.pixels))
    return SplitReport(split, len(source), tuple(per_class), values, pixels, sizes_report(index.sizes))


def sizes_report(sizes: Iterable[tuple[int, int]]) -> SizesReport | None:
    """Summarise the sizes of images; None if none is known. Unsound images have the size (0, 0) and do not count.

    >>> str(sizes_report([(160, 120), (80, 60), (0, 0), (640, 480)]))
    '80x60 to 640x480, the median 160x120'
    """
    known = by_side(size for size in sizes if min(size) > 0)
    return SizesReport(known[0], middle(known), known[-1], len(set(known))) if known else None


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _changed(split: str, index: Index) -> list[str]:
    told = [f"{split}: {count(n, 'images')} {CHANGED[change]}" for change, n in sorted(index.changes.items())]
    if index.unclear:
        told.append(
            f"{split}: of the images turned by EXIF data, {index.unclear} do not tell by their size whether the mask "
            "was drawn on the turned one; it is taken to be"
        )
    return told


def _map_lines(opened: Mapping[str, FileSource], maps: Sequence[Problem]) -> list[Remark]:
    """Report saliency maps that a method which uses them would refuse."""
    if not maps:
        return []
    number = sum(len(source.saliency) for source in opened.values())
    text = f"{len(maps)} of {number} saliency maps are of no use, which matters to methods that use them; {maps[0]}"
    return [Remark("warning", text)]


def _class_lines(names: Sequence[str], found: Mapping[str, Index]) -> list[Remark]:
    """Report classes that no image shows, or none of one split."""
    values = {split: index.values for split, index in found.items()}
    total: Counter[int] = Counter()
    for counts in values.values():
        total.update(counts)
    nowhere = absent(names, total)
    remarks = [Remark("warning", nowhere)] if nowhere else []
    shown = [i for i in range(1, len(names)) if total[i]]
    for split, what, level in (("train", "cannot be learned", "warning"), ("val", "is not measured", "note")):
        lacking = [names[i] for i in shown if split in values and not values[split].get(i)]
        if lacking:
            text = f"no image of the {split} split shows {listing(map(repr, lacking))}, which {what}"
            remarks.append(Remark("warning" if level == "warning" else "note", text))
    return remarks
