"""Layout of line charts: positions in a drawing. The template draws them; the script shows values on hover."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from barm.report.page.colours import DASHES, SERIES

WIDE, NARROW = (440, 260), (340, 220)  # width and height of a drawing
LEFT, RIGHT, TOP, BOTTOM = 44, 14, 12, 40
DISC = 18.0  # radius of the largest disc
MARKED = 24  # points up to which each has a mark


@dataclass(frozen=True)
class Series:
    """One line of a chart: its name, its points, a text per point, and its place in the order of colours."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float]
    told: Sequence[str]
    slot: int
    breaks: frozenset[int] = frozenset()  # points that are not joined to the one before
    sizes: Sequence[float] = ()  # a disc per point, shares of the largest area
    stops: Sequence[float] = ()  # where the script tells the points, if not where they stand
    more: Sequence[str] = ()  # what it tells after a value


@dataclass(frozen=True)
class Line:
    """A series as drawn: an SVG path and its points, in units of the drawing."""

    name: str
    slot: int
    dash: str
    path: str
    points: tuple[tuple[float, float], ...]
    marked: bool
    radii: tuple[float, ...] = ()


@dataclass(frozen=True)
class Chart:
    """A chart, laid out.

    Attributes:
        title: above it, and its text for those who do not see it.
        lines: the series.
        x_ticks: place and text.
        y_ticks: place and text.
        x_label: below the axis.
        rules: places of vertical rules.
        hover: data for the script: per series name, slot, places and texts.
        width: of the drawing.
        height: of the drawing.
        subtitle: what is drawn, a sentence below the title.
        left: where the horizontal axis begins.
        top: where the vertical axis ends.
        guide: path of a line to compare with.
    """

    title: str
    lines: tuple[Line, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    x_label: str
    rules: tuple[float, ...]
    hover: list[dict[str, Any]]
    width: int
    height: int
    subtitle: str = ""
    left: int = LEFT
    top: int = TOP
    guide: str = ""

    @property
    def right(self) -> int:
        """Right end of the horizontal axis."""
        return self.width - RIGHT

    @property
    def bottom(self) -> int:
        """Lower end of the vertical axis."""
        return self.height - BOTTOM


def line_chart(
    title: str,
    series: Sequence[Series],
    *,
    x_label: str,
    x_ticks: Sequence[tuple[float, str]] | None = None,
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
    rules: Sequence[float] = (),
    digits: int | None = 1,
    size: tuple[int, int] = NARROW,
    subtitle: str = "",
    guide: Sequence[tuple[float, float]] = (),
) -> Chart:
    """Lay out a chart.

    Args:
        title: of the chart.
        series: at least one, with at least one point, all finite.
        x_label: of the horizontal axis.
        x_ticks: value and text; chosen by itself if not given.
        x_range: of the horizontal axis; the values' own if not given.
        y_range: of the vertical axis; the values' own, with 0 if they are not negative, if not given.
        rules: where vertical rules stand.
        digits: after the point in the told values; None for three significant ones.
        size: of the drawing.
        subtitle: a sentence below the title.
        guide: points of a line to compare with.
    """
    xs = [x for s in series for x in s.xs]
    ys = [y for s in series for y in s.ys]
    low_x, high_x = x_range or (min(xs), max(xs))
    low, high = y_range or (min(0.0, *ys), max(ys))
    steps = nice_ticks(low, high)
    low, high = min(low, steps[0]), max(high, steps[-1])
    if x_ticks is None:
        x_ticks = [(t, f"{t:g}") for t in nice_ticks(low_x, high_x) if low_x <= t <= high_x]

    width, height = size

    def at_x(x: float) -> float:
        return round(LEFT + (x - low_x) / ((high_x - low_x) or 1) * (width - LEFT - RIGHT), 1)

    def at_y(y: float) -> float:
        return round(height - BOTTOM - (y - low) / (high - low) * (height - TOP - BOTTOM), 1)

    places = [tuple((at_x(x), at_y(y)) for x, y in zip(s.xs, s.ys, strict=True)) for s in series]
    return Chart(
        title,
        tuple(_line(s, points) for s, points in zip(series, places, strict=True)),
        tuple((at_x(x), text) for x, text in x_ticks),
        tuple((at_y(y), f"{y:g}") for y in steps),
        x_label,
        tuple(at_x(x) for x in rules),
        [
            _hover(s, [at_x(x) for x in s.stops or s.xs], [y for _, y in points], digits)
            for s, points in zip(series, places, strict=True)
        ],
        width,
        height,
        subtitle,
        guide=_path([(at_x(x), at_y(y)) for x, y in guide]),
    )


def _path(points: Sequence[tuple[float, float]], breaks: Collection[int] = ()) -> str:
    """An SVG path through points; before those in `breaks` it is interrupted."""
    return "".join(f"{'M' if i in breaks or not i else 'L'}{x:g} {y:g}" for i, (x, y) in enumerate(points))


def _line(s: Series, points: tuple[tuple[float, float], ...]) -> Line:
    radii = tuple(round(DISC * math.sqrt(size), 2) for size in s.sizes)
    path, slot = _path(points, s.breaks), s.slot % SERIES
    return Line(s.name, slot, DASHES[slot], path, points, len(points) <= MARKED, radii)


def _hover(s: Series, xs: Sequence[float], ys: Sequence[float], digits: int | None) -> dict[str, Any]:
    """Data that the script shows on hover over a series."""
    return {
        "name": s.name,
        "slot": s.slot % SERIES,
        "x": list(xs),
        "y": list(ys),
        "values": [f"{y:.{digits}f}" if digits is not None else f"{y:.3g}" for y in s.ys],
        "told": list(s.told),
        **({"more": list(s.more)} if s.more else {}),
    }


def nice_ticks(low: float, high: float, number: int = 5) -> list[float]:
    """Round values that cover `low` to `high`.

    >>> nice_ticks(0, 100)
    [0.0, 20.0, 40.0, 60.0, 80.0, 100.0]
    """
    if not high > low:
        high = low + 1
    rough = (high - low) / number
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def thinned(xs: Sequence[float], ys: Sequence[float], limit: int) -> tuple[list[float], list[float]]:
    """Reduce to at most `limit` points: averages of neighbours, at the place of the last of them."""
    size = -(-len(xs) // limit)
    if size <= 1:
        return list(xs), list(ys)
    starts = range(0, len(xs), size)
    return [xs[min(i + size, len(xs)) - 1] for i in starts], [
        sum(ys[i : i + size]) / len(ys[i : i + size]) for i in starts
    ]
