"""What the page says, as HTML; every name from a run is escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from numpy import uint8
from numpy.typing import NDArray

from barm.app.runs import Run, ShownStep
from barm.words import count

NAMED = 3  # classes of a step that are named; the others are counted
FIGURE_SPACE = "\u2007"


def percent(value: float) -> str:
    """``0.0312`` -> ``3.1 %``; what is there is never 0.0."""
    return "<0.1 %" if 0 < value < 0.0005 else f"{100 * value:.1f} %"


def swatch(colour: Sequence[int] | NDArray[uint8]) -> str:
    """A small square of a class's colour."""
    red, green, blue = (int(v) for v in colour)
    return f'<i class="swatch" style="background:rgb({red},{green},{blue})"></i>'


def title(runs: Sequence[Run]) -> str:
    """The page's title: names and methods."""
    return " and ".join(f"{run.name} ({run.method})" for run in runs)


def header(runs: Sequence[Run], step: int) -> str:
    """The top of the page: the runs, and what the slider's step has taught them."""
    head = f"<h1>{escape(title(runs))}</h1>"
    shown = runs[0].at(step)
    when = f"After step {shown.step} of {runs[0].planned - 1}:" if runs[0].planned > 1 else "In one step:"
    sentence = f"<b>{when}</b> learned {taught(shown, NAMED)}."
    scores = [
        f"{escape(run.name) + ' ' if len(runs) > 1 else ''}{percent(run.at(step).miou or 0)}"
        for run in runs
        if run.at(step).miou is not None
    ]
    known = f"Knows {count(len(shown.names) - 1, 'classes')}" + (f", mIoU {' · '.join(scores)}" if scores else "")
    return f'{head}<p aria-live="polite">{sentence} {known}.</p>'


def taught(shown: ShownStep, most: int) -> str:
    """The classes of a step with their colours; the ones above `most` as a number."""
    colours = dict(zip(shown.names, shown.colours, strict=True))
    words = [f'<span class="class">{swatch(colours[n])}{escape(n)}</span>' for n in shown.learned[:most]]
    rest = len(shown.learned) - most
    return ", ".join(words) + (f" and {rest} more" if rest > 0 else "")


def strip(run: Run, step: int) -> str:
    """All steps in a row; those still to come are faint, and the slider's is marked. Nothing of a single step."""
    now = run.at(step)
    if run.planned == 1:
        return ""
    items = []
    for shown in run.steps:
        state = "now" if shown is now else "past" if shown.step < now.step else "future"
        current = ' aria-current="step"' if shown is now else ""
        colours = dict(zip(shown.names, shown.colours, strict=True))
        classes = [f"<span>{swatch(colours[n])}<em>{escape(n)}</em></span>" for n in shown.learned[:2]]
        more = f"<span>+{len(shown.learned) - 2}</span>" if len(shown.learned) > 2 else ""
        items.append(
            f'<li class="{state}"{current} title="{escape(", ".join(shown.learned))}">'
            f'<b data-number="{shown.step}">Step {shown.step}</b>{"".join(classes)}{more}</li>'
        )
    return f'<ol class="steps">{"".join(items)}</ol>'


def pane(run: Run, shown: ShownStep, note: str = "") -> str:
    """The line above a picture."""
    score = "" if shown.miou is None else f" · mIoU {percent(shown.miou)}"
    after = f"after step {shown.step}" if run.planned > 1 else ""
    return f"<h2>{escape(note or run.name)} <small>{(after + score).removeprefix(' · ')}</small></h2>"


def found(shares: Mapping[str, float]) -> str:
    """What was found in a picture, from the shares of all known classes, background first."""
    background, *objects = shares.values()
    return (
        f"Found {sum(v > 0 for v in objects)} of the {count(len(objects), 'classes')} it knows; "
        f"{percent(background)} of the pixels are background."
    )


def hint(place: int) -> str:
    """Where a picture will be."""
    return "<h2><small>Drop a picture to see what the model finds in it.</small></h2>" if place == 0 else ""


def choices(names: Sequence[str], columns: Sequence[Mapping[str, float]]) -> list[tuple[str, str]]:
    """The toggles: per class its share of the pixels of every picture shown, in percent, then its name.

    Args:
        names: of all classes.
        columns: per picture the shares of the classes that its network knows.
    """

    def cell(value: float | None) -> str:
        return ("–" if value is None else percent(value)[:-2]).rjust(4, FIGURE_SPACE)

    return [("  ".join([*(cell(c.get(n)) for c in columns), n]), n) for n in names]


def class_style(names: Sequence[str], colours: Mapping[str, NDArray[uint8]], known: set[str], seen: set[str]) -> str:
    """CSS of the toggles: the n-th has the n-th class's swatch; those not in the picture are faint."""
    rules = []
    for place, name in enumerate(names, 1):
        red, green, blue = (int(v) for v in colours[name])
        label = f"#classes .wrap label:nth-child({place})"
        rules.append(f"{label} span::before{{background:rgb({red},{green},{blue})}}")
        if name not in known:
            rules.append(f"{label}{{opacity:.4}}")
        elif name not in seen:
            rules.append(f"{label} span{{color:color-mix(in srgb,var(--body-text-color) 65%,transparent)}}")
    return f"<style>{''.join(rules)}</style>"


def notice(message: str, kind: str = "remark") -> str:
    """A line under the picture to drop: a remark, or why something was not done."""
    return (
        f'<p class="{kind}" role="{"alert" if kind == "refusal" else "status"}">{escape(message)}</p>'
        if message
        else ""
    )
