"""`barm data check`: everything that is wrong with a data set, in one go."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from barm.data import detect_layout, open_source
from barm.data.index import Problem, images_per_class, scan
from barm.errors import UserError


@dataclass(frozen=True)
class SplitReport:
    """One split: number of pictures and of pictures per class (in the order of `Report.class_names`, no background)."""

    split: str
    num_images: int
    per_class: tuple[int, ...]


@dataclass(frozen=True)
class Report:
    """What was found: layout, class names (background first), splits, problems of pictures, problems of the layout."""

    layout: str
    class_names: tuple[str, ...]
    splits: tuple[SplitReport, ...]
    problems: tuple[Problem, ...]
    broken: tuple[str, ...]


def check_folder(root: Path | str, layout: str = "auto") -> Report:
    """Scan both splits of a data set.

    Raises:
        UserError: if no layout can be recognised.
    """
    root = Path(root)
    layout = detect_layout(root) if layout == "auto" else layout
    names: tuple[str, ...] = ()
    splits: list[SplitReport] = []
    problems: list[Problem] = []
    broken: list[str] = []
    for split in ("train", "val"):
        try:
            source = open_source(layout, root, split)
        except UserError as error:
            broken.append(str(error))
            continue
        index = scan(source)
        names = source.class_names
        splits.append(SplitReport(split, len(source), tuple(images_per_class(index.classes, len(names) - 1))))
        problems.extend(index.problems)
    return Report(layout, names, tuple(splits), tuple(problems), tuple(broken))
