"""Scores of an extension, gains and losses, as a table and as an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from rich import box
from rich.table import Table

from barm.escaping import markup
from barm.report.figures import Pixels, overlay, pyplot, save_figure
from barm.report.tables import percent

WIDTH = 2.4  # of an image, inches
PANELS = ("image", "labelled", "before", "after")


def extension_table(result: Mapping[str, Any]) -> Table:
    """IoU of every class before and after an extension, in percent, and the means; agreement if nothing is measured."""
    agreed, new = result["agreement"], result["learned"]
    table = Table(
        title=markup(result["run"]), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False
    )
    table.add_column("class")
    for name in ("before", "after", "change"):
        table.add_column(name, justify="right", min_width=6)
    if agreed is not None:
        table.add_column("agreement", justify="right")

    def add(name: str, before: float | None, after: float | None, share: float | None = None) -> None:
        change = "" if before is None or after is None else f"{100 * (after - before):+.1f}"
        cells = [percent(before), percent(after), change, *([percent(share)] if agreed is not None else [])]
        table.add_row(markup(name), *cells)

    for name, iou in result["class_iou"].items():
        if name not in new:
            add(name, iou["before"], iou["after"], None if agreed is None else agreed[name])
    table.add_section()
    add("mean of the old", result["old"]["before"], result["old"]["after"], _mean(agreed))
    table.add_section()
    for name in new:
        add(f"new: {name}", None, result["class_iou"][name]["after"])
    return table


def extension_lines(result: Mapping[str, Any]) -> list[str]:
    """Explanations of the table's numbers, and advice."""
    lines = ["IoU in percent, on images that were not trained on."]
    if result["old"]["before"] is None:
        lines = [
            "IoU in percent. No images that label the old classes are at hand: theirs is not measured (see --val)."
        ]
    if result["agreement"] is not None:
        lines.append(
            "agreement: of the pixels that the old network gives a class, the share that the new one gives it too."
        )
    return [*lines, *(f"! {line}" for line in result["advice"])]


def _mean(values: Mapping[str, float | None] | None) -> float | None:
    found = [v for v in (values or {}).values() if v is not None]
    return sum(found) / len(found) if found else None


class Change(NamedTuple):
    """Predictions for one image before and after an extension.

    Attributes:
        image: ``(H, W, 3)`` uint8.
        truth: channels of the labelled classes, 255 where ignored, ``(H, W)`` uint8.
        before: channels, ``(H, W)`` uint8.
        after: channels, ``(H, W)`` uint8.
        told: why the image was chosen.
    """

    image: Pixels
    truth: Pixels
    before: Pixels
    after: Pixels
    told: str = ""


def draw_changes(path: Path, changes: Sequence[Change], names: Sequence[str], colours: Pixels, headline: str) -> None:
    """Write one row per image: the image, what is labelled, the answers before and after; a legend below.

    Labels lie over the image, and every image keeps its shape.

    Args:
        path: PNG file.
        changes: the images.
        names: by channel, background first.
        colours: by channel, ``(C, 3)`` uint8.
        headline: above everything.
    """
    plt = pyplot()

    heights = [WIDTH * min(change.image.shape[0] / change.image.shape[1], 2) for change in changes]
    size = (4 * WIDTH + 0.4, sum(heights) + 0.35 * len(changes) + 1.2)
    figure = plt.figure(figsize=size, layout="constrained")
    figure.suptitle("\n".join(wrap(headline, 70)), fontsize=12)
    parts = figure.subfigures(len(changes), 1, squeeze=False, height_ratios=[h + 0.35 for h in heights])[:, 0]
    for number, (part, change) in enumerate(zip(parts, changes, strict=True)):
        part.supxlabel(change.told, fontsize=9)
        labels = (change.truth, change.before, change.after)
        panels = (change.image, *(overlay(change.image, label, colours) for label in labels))
        for ax, panel, title in zip(part.subplots(1, 4), panels, PANELS, strict=True):
            ax.imshow(panel)
            ax.set_axis_off()
            if number == 0:
                ax.set_title(title, fontsize=10)
    shown = sorted({int(c) for change in changes for p in change[1:4] for c in np.unique(p)} - {0, 255})
    patches = [mpl.patches.Patch(color=colours[c] / 255, label=names[c]) for c in shown]
    if patches:
        figure.legend(handles=patches, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    save_figure(figure, path)
