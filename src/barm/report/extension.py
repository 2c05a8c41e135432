"""What an extension taught and what it cost, as a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.table import Table

from barm.report.tables import percent


def extension_table(result: Mapping[str, Any]) -> Table:
    """IoU of every class before and after an extension, in percent, and the means; agreement where nothing is known."""
    agreed, new = result["agreement"], result["learned"]
    table = Table(title=result["run"], title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("class")
    for name in ("before", "after", "change"):
        table.add_column(name, justify="right", min_width=6)
    if agreed is not None:
        table.add_column("agreement", justify="right")

    def add(name: str, before: float | None, after: float | None, share: float | None = None) -> None:
        change = "" if before is None or after is None else f"{100 * (after - before):+.1f}"
        table.add_row(name, percent(before), percent(after), change, *([percent(share)] if agreed is not None else []))

    for name, iou in result["class_iou"].items():
        if name not in new:
            add(name, iou["before"], iou["after"], None if agreed is None else agreed[name])
    table.add_section()
    add("mean of the old", result["old"]["before"], result["old"]["after"], _mean(agreed))
    table.add_section()
    for name in new:
        add(f"new: {name}", None, result["class_iou"][name]["after"])
    table.caption = CAPTION if agreed is None else UNMEASURED
    table.caption_justify = "left"
    return table


CAPTION = "IoU in percent on pictures that were not trained on"
UNMEASURED = """IoU in percent. No picture with labels of the old classes is at hand, so theirs is not measured.
agreement: of the pixels that the old network gives a class, the share that the new one gives it too"""


def _mean(values: Mapping[str, float | None] | None) -> float | None:
    found = [v for v in (values or {}).values() if v is not None]
    return sum(found) / len(found) if found else None
