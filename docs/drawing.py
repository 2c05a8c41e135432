"""What the images of the documents have in common: colours, panels without ticks, labels, boxes, small files."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from numpy.typing import NDArray
from PIL import Image

from barm.data.sources.shapes import Scene

INK, QUIET, GROUND, EMPTY = "#222222", "#777777", "#ffffff", "#e6e6e6"
RED, BLUE, GREEN, ORANGE, PINK, SKY = "#D55E00", "#0072B2", "#009E73", "#E69F00", "#CC79A7", "#56B4E9"
Pixels = NDArray[np.uint8]


def save(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG of few colours."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=150, facecolor=GROUND, metadata={"Software": None})
    plt.close(figure)
    Image.open(buffer).convert("RGB").quantize(200, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size / 1024:.0f} KB")


def bare(ax: Axes, title: str = "", note: str = "") -> None:
    """A panel without ticks, with a title above and a note below."""
    ax.set_title(title, fontsize=11, color=INK, weight="bold")
    ax.set_xlabel(note, fontsize=10, color=INK)
    frame(ax)


def frame(ax: Axes) -> None:
    """A thin frame without ticks."""
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_color(QUIET)


def show_labels(ax: Axes, label: Pixels, colours: dict[int, str]) -> None:
    """Draw ids in the colours given; all else is empty."""
    table = np.zeros((256, 3), np.uint8)
    for i in range(256):
        table[i] = [int(colours.get(i, EMPTY)[k : k + 2], 16) for k in (1, 3, 5)]
    ax.imshow(table[label], interpolation="nearest")


def middle(scene: Scene, class_id: int) -> tuple[float, float]:
    """x and y of an object's middle."""
    y, x = np.nonzero(scene.mask == class_id)
    return float(x.mean()), float(y.mean())


def write_on(ax: Axes, scene: Scene, class_id: int, text: str, colour: str = "white") -> None:
    """Text in the middle of an object."""
    ax.text(*middle(scene, class_id), text, ha="center", va="center", fontsize=10, color=colour, weight="bold")


def outline(ax: Axes, scene: Scene, class_id: int) -> None:
    """A dashed line around an object."""
    ax.contour(scene.mask == class_id, [0.5], colors=INK, linestyles="dashed", linewidths=1.4)


def box(ax: Axes, at: tuple[float, float], size: tuple[float, float], text: str, colour: str, ink: str = INK) -> None:
    """A rounded box with a text."""
    ax.add_patch(FancyBboxPatch(at, *size, boxstyle="round,pad=0,rounding_size=0.12", fc=colour, ec=INK, lw=1))
    ax.text(at[0] + size[0] / 2, at[1] + size[1] / 2, text, ha="center", va="center", fontsize=10, color=ink)


def arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float], colour: str = INK) -> None:
    """From one point to another."""
    ax.add_patch(
        FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=13, color=colour, lw=1.3, shrinkA=0, shrinkB=0)
    )


def bare_title(ax: Axes, text: str) -> None:
    """A title above a chart."""
    ax.set_title(text, fontsize=11, color=INK, weight="bold")
