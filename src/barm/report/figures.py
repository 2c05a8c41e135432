"""Figures: colour masks, overlays, and predictions and curves of a whole run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from textwrap import fill
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray

from barm.data.palette import OVERLAY
from barm.writing import write_atomically

Pixels = NDArray[np.uint8]
IGNORED = 255  # neither tinted nor outlined
LINE = 300  # the short side of an image over the width of its outlines
COLOURS = [mpl.colormaps["tab20"](i) for i in (*range(0, 20, 2), *range(1, 20, 2))]  # of curves, the dark ones first
MARKERS = "os^vDP"
NAME = 28  # characters of a line of a legend
RIM = 0.65  # how dark the image is beside an object, where the outline is opaque


def colourise(label: Pixels, colours: Pixels) -> Pixels:
    """Colour channels ``(H, W)`` by a table -> ``(H, W, 3)``; 255 is white."""
    table = np.full((256, 3), 255, np.uint8)
    table[: len(colours)] = colours
    return table[label]


def overlay(image: Pixels, label: Pixels, colours: Pixels, opacity: float = OVERLAY) -> Pixels:
    """Tint and outline the labelled objects in an image, ``(H, W, 3)`` uint8.

    An outline is twice as opaque as the tint, at most opaque, and lies inside the object, so that a thin part is all
    outline; the image is darker along it. Below the tint the image is grey, so that the hue is the class's.
    Background and ignored pixels are the image's.

    Args:
        image: ``(H, W, 3)`` uint8.
        label: channels, ``(H, W)`` uint8.
        colours: by channel, ``(C, 3)`` uint8.
        opacity: of the tint in 0..1; 0 is the image alone.
    """
    inside = objects(label)
    edge, rim = outlines(label)
    strong = min(1.0, 2 * opacity)
    share = opacity * inside.astype(np.float32)
    share[edge], share[rim] = strong, strong * RIM
    tint = np.where(rim[..., None], np.uint8(0), colourise(label, colours))
    grey = (image @ np.array([0.299, 0.587, 0.114]))[..., None]  # under a tint, lest it look like another class's
    below = np.where(inside[..., None] & (opacity > 0), grey, image)
    mixed = below * (1 - share[..., None]) + tint * share[..., None]
    return np.asarray(mixed.round().astype(np.uint8))


def objects(label: Pixels) -> NDArray[np.bool_]:
    """Pixels of labelled objects, ``(H, W)`` bool: neither background nor ignored."""
    there: NDArray[np.bool_] = (label > 0) & (label != IGNORED)
    return there


def outlines(label: Pixels, width: int | None = None) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Outlines of objects: their pixels beside another label, and the pixels around them, ``(H, W)`` each.

    Args:
        label: channels, ``(H, W)`` uint8.
        width: of each in pixels; by default as the image's size has it.

    >>> edge, rim = outlines(np.array([[0, 0, 1, 1, 1, 2]], np.uint8))
    >>> edge.astype(int).tolist(), rim.astype(int).tolist()
    ([[0, 0, 1, 0, 1, 1]], [[0, 1, 0, 0, 0, 0]])
    """
    width = width or max(1, round(min(label.shape) / LINE))
    inside = objects(label)
    edge = inside & (_extreme(label, width, np.maximum) != _extreme(label, width, np.minimum))
    return edge, ~inside & _extreme(inside, width, np.logical_or)


def image_iou(label: Pixels, truth: Pixels, classes: Iterable[int]) -> float | None:
    """Mean IoU over the given classes that are in the image's ground truth, in 0..1; None if there are none.

    Args:
        label: the prediction, ``(H, W)``.
        truth: ids as in `label`, ``(H, W)``; 255 counts nowhere.
        classes: the ids over which the mean runs.

    >>> image_iou(np.array([[1, 1, 2, 0]]), np.array([[1, 0, 2, 255]]), [1, 2, 3])
    0.75
    """
    known, shares = truth != IGNORED, list[float]()
    for i in classes:
        there, found = (truth == i) & known, (label == i) & known
        if there.any():
            shares.append(float((there & found).sum() / (there | found).sum()))
    return sum(shares) / len(shares) if shares else None


class Ranked(NamedTuple):
    """A ranked image: position in its list, rank by a value, 1 for the best, and how many images have a value."""

    place: int
    rank: int
    ranked: int

    def told(self, what: str) -> str:
        """Describe the rank, such as ``best of 9 images``, ``rank 4 of 9 images``.

        Args:
            what: all of these images show, with its article.

        >>> Ranked(0, 1, 1).told("a new class")
        'the only image with a new class'
        """
        if self.ranked == 1:
            return f"the only image with {what}"
        names = {1: "best", self.ranked: "worst"}
        return f"{names.get(self.rank, f'rank {self.rank}')} of {self.ranked} images"


def best_and_worst(values: Sequence[float | None], number: int) -> list[Ranked]:
    """Alternate between the largest and the smallest values, the largest first. Ties keep their order.

    >>> [one.place for one in best_and_worst([0.5, None, 0.9, 0.1, 0.7], 3)]
    [2, 3, 4]
    """
    order = sorted((i for i, v in enumerate(values) if v is not None), key=lambda i: -(values[i] or 0.0))
    ranked = [Ranked(i, rank, len(order)) for rank, i in enumerate(order, start=1)]
    return [ranked[n // 2] if n % 2 == 0 else ranked[-1 - n // 2] for n in range(min(number, len(ranked)))]


def _extreme(values: NDArray[Any], radius: int, function: Any) -> NDArray[Any]:
    """Apply a function such as the maximum to the square around each pixel, in few passes for any radius."""
    for axis in (0, 1):
        values = np.moveaxis(
            np.pad(values, [(radius, radius) if a == axis else (0, 0) for a in (0, 1)], "edge"), axis, 0
        )
        length = 1
        while length < 2 * radius + 1:
            further = min(length, 2 * radius + 1 - length)
            values = function(values[:-further], values[further:])
            length += further
        values = np.moveaxis(values, 0, axis)
    return values


class SceneHistory(NamedTuple):
    """Predictions for one image over the steps of a run.

    Attributes:
        image: ``(H, W, 3)`` uint8.
        truth: dataset ids of all classes, ``(H, W)`` uint8.
        predictions: per method, dataset ids after each step.
    """

    image: Pixels
    truth: Pixels
    predictions: Mapping[str, Sequence[Pixels]]


def pyplot() -> Any:
    """matplotlib's pyplot for drawing into files, with names as they are: a dollar sign begins no formula."""
    mpl.use("Agg")
    mpl.rcParams["text.parse_math"] = False
    import matplotlib.pyplot as plt

    return plt


def save_figure(figure: Any, path: Path, dpi: int = 110) -> None:
    """Write a figure in the format of the file's ending, and close it.

    Raises:
        UserError: if something else than a file is in its place.
    """
    content = BytesIO()
    figure.savefig(content, dpi=dpi, format=path.suffix[1:])
    pyplot().close(figure)
    write_atomically(path, content.getvalue())


def draw_histories(
    path: Path,
    histories: Sequence[SceneHistory],
    colours: Pixels,
    curves: Mapping[str, Sequence[float]],
    taught: Sequence[str],
    headline: str,
) -> None:
    """Write a comparison: per image the ground truth and every method's predictions by step, with curves below.

    Args:
        path: PNG file.
        histories: the images.
        colours: per dataset id, ``(256, 3)`` uint8.
        curves: per method the mIoU over all classes seen after each step, in 0..1.
        taught: the new classes of each step, above its column.
        headline: above everything.
    """
    plt = pyplot()

    methods = list(histories[0].predictions)
    rows, columns = len(histories) * len(methods), 2 + len(taught)
    figure = plt.figure(figsize=(1.35 * columns + 1.4, 1.35 * rows + 3.6), layout="constrained")
    figure.suptitle(headline, fontsize=13)
    parts: Any = figure.subfigures(2, 1, height_ratios=[1.35 * rows, 3.0])
    upper, lower = parts
    axes = np.atleast_2d(upper.subplots(rows, columns))
    titles = ["image", "truth", *(f"after step {s}:\n{what}" for s, what in enumerate(taught))]
    for row in range(rows):
        history, method = histories[row // len(methods)], methods[row % len(methods)]
        first = row % len(methods) == 0
        panels: list[Any] = [history.image if first else None, colourise(history.truth, colours) if first else None]
        panels += [colourise(p, colours) for p in history.predictions[method]]
        for column, panel in enumerate(panels):
            ax = axes[row, column]
            ax.set_xticks([])
            ax.set_yticks([])
            if panel is None:
                ax.axis("off")
                continue
            ax.imshow(panel)
            if row == 0:
                ax.set_title(titles[column], fontsize=9)
        axes[row, 2].set_ylabel(method, fontsize=9)
    _draw_curves(lower.subplots(), curves)
    save_figure(figure, path)


def _draw_curves(ax: Any, curves: Mapping[str, Sequence[float]]) -> None:
    styles = ["-o", "--s", ":^", "-.d"]
    for (name, values), style in zip(curves.items(), styles, strict=False):
        ax.plot(range(len(values)), [100 * v for v in values], style, label=name)
    ax.set_xlabel("step")
    ax.set_ylabel("mIoU over all classes\nseen so far (%)")
    ax.set_ylim(0, 100)
    ax.set_xticks(range(max(map(len, curves.values()))))
    ax.grid(alpha=0.3)
    ax.legend(loc="lower left")


def draw_comparison(path: Path, curves: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
    """Write one panel per task with a curve for every method.

    Args:
        path: PNG file.
        curves: per task and method the mean mIoU over the classes seen after each step, in 0..1.
    """
    plt = pyplot()

    names = list(dict.fromkeys(name for methods in curves.values() for name in methods))
    shown = [fill(name, NAME, break_long_words=False) for name in names]  # with settings, a line each
    lines = [line for name in shown for line in name.splitlines()]
    width, height = 5.2 * len(curves) + 0.6 + 0.09 * max(map(len, lines)), max(4.2, 0.5 + 0.24 * len(lines))
    figure, axes = plt.subplots(1, len(curves), figsize=(width, height), squeeze=False, layout="constrained")
    looks = [{"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)]} for i in range(len(names))]
    styles = dict(zip(names, looks, strict=True))
    for ax, (task, methods) in zip(axes[0], curves.items(), strict=True):
        for name, values in methods.items():
            steps = range(len(values))
            ax.plot(steps, [100 * v for v in values], ms=4, **styles[name])
        ax.set_title(task)
        ax.set_xlabel("step")
        ax.set_ylim(0, 100)
        ax.set_xticks(range(max(map(len, methods.values()))))
        ax.grid(alpha=0.3)
    axes[0, 0].set_ylabel("mIoU over the classes seen so far (%)")
    handles = [mpl.lines.Line2D([], [], ms=4, **look) for look in looks]
    figure.legend(handles, shown, loc="outside right upper")
    save_figure(figure, path)


def draw_lines(path: Path, panels: Mapping[str, Mapping[int, float]]) -> None:
    """Write one small panel per title with values over a logarithmic axis."""
    plt = pyplot()

    columns = (len(panels) + 1) // 2
    figure, axes = plt.subplots(2, columns, figsize=(3.6 * columns, 5.6), squeeze=False, layout="constrained")
    for ax, (title, values) in zip(axes.T.flatten(), panels.items(), strict=False):
        ax.semilogx(list(values), list(values.values()), marker="o")
        ax.set_ylim(bottom=0)
        ax.set_title(title, fontsize=10)
        ax.set_xticks(list(values), [str(v) for v in values])
        ax.minorticks_off()
        ax.set_yticks(list(values.values()), [f"{v:.3g}" for v in values.values()])
        ax.grid(alpha=0.3)
    save_figure(figure, path)
