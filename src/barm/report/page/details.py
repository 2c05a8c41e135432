"""Where the networks are wrong, in the form that the template needs: scores at borders, reliability, confused pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from barm.report.page.charts import Chart, Series, line_chart
from barm.report.page.colours import DASHES, SERIES
from barm.report.page.content import Details, KnownClass, RunContent
from barm.report.tables import percent
from barm.words import count

SIZE = 440, 330  # of the diagram
SAME = 0.005  # a mean probability this near to the share of right pixels is the same


class Pair(NamedTuple):
    """A class, the class that it is taken for, and the share of its pixels."""

    truth: KnownClass
    prediction: KnownClass
    share: str


class Wrong(NamedTuple):
    """What the page says of one run: where it stands among the runs, its scores, calibration in words, pairs."""

    label: str
    slot: int
    dash: str
    border: str
    inner: str
    told: str
    pairs: tuple[Pair, ...]


class Section(NamedTuple):
    """The whole section: its runs, the width of a border in words, and the diagram if a run has probabilities."""

    runs: tuple[Wrong, ...]
    width: str
    chart: Chart | None


def section(runs: Sequence[RunContent], details: Mapping[str, Details]) -> Section:
    """Lay out the details of the runs that have some, in the order and the colours of all runs."""
    places = [(slot, run, details[run.label]) for slot, run in enumerate(runs) if run.label in details]
    width = count(places[0][2].width, "pixels") if places else ""
    probable = [(slot, run, found) for slot, run, found in places if found.bins]
    series = [_series(*one) for one in probable]
    chart = _chart(series, len(probable[0][2].bins)) if series else None
    return Section(tuple(_wrong(*one) for one in places), width, chart)


def _wrong(slot: int, run: RunContent, found: Details) -> Wrong:
    known = {c.name: c for c in run.classes}
    pairs = [Pair(known[p.truth], known[p.prediction], percent(p.share)) for p in found.confused]
    slot %= SERIES
    told = _calibration(run.label, found) if found.bins else ""
    return Wrong(run.label, slot, DASHES[slot], percent(found.border), percent(found.inner), told, tuple(pairs))


def _calibration(label: str, found: Details) -> str:
    """How far the probabilities can be believed, in words."""
    surer = found.probability - found.right
    verdict = "it is surer than it should be" if surer > SAME else "it is right more often than it says"
    if abs(surer) <= SAME:
        verdict = "on the whole it is as sure as it should be"
    return (
        f"{label} gives the class that it chooses a probability of {percent(found.probability)} % on average and is "
        f"right in {percent(found.right)} % of the pixels: {verdict}. Its expected calibration error is "
        f"{percent(found.error)} points."
    )


def _series(slot: int, run: RunContent, found: Details) -> Series:
    """Bins with pixels by their mean probability; the script tells a bin at its middle, the same for all runs."""
    number, total = len(found.bins), found.pixels
    filled = [(place, one) for place, one in enumerate(found.bins) if one.pixels]
    bounds = [(place / number, (place + 1) / number) for place, _ in filled]
    return Series(
        run.label,
        [100 * one.probability for _, one in filled],
        [100 * one.accuracy for _, one in filled],
        [f"probability {percent(low)} to {percent(high)} %" for low, high in bounds],
        slot,
        stops=[50 * (low + high) for low, high in bounds],
        sizes=[one.pixels / total for _, one in filled],
        more=[f"{percent(one.pixels / total)} % of the pixels" for _, one in filled],
    )


def _chart(series: Sequence[Series], bins: int) -> Chart:
    return line_chart(
        "right (%) by probability",
        series,
        x_label="probability of the predicted class (%)",
        x_range=(0, 100),
        y_range=(0, 100),
        size=SIZE,
        guide=((0, 0), (100, 100)),
        subtitle=(
            f"All pixels in {count(bins, 'bins')} by the probability of the predicted class; the larger the "
            "disc, the more pixels. On the grey diagonal a network is right as often as it says; below it is too sure."
        ),
    )
