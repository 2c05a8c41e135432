"""The texts of the page as HTML with every name escaped, and its drawings as arrays. No network runs here."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from barm.app.viewer import Run, ShownStep
from barm.report.figures import overlay
from barm.words import count

NAMED = 3  # classes of a step that are named; the others are counted
FIGURE_SPACE = "\u2007"
VIEW = 640  # smaller images are enlarged by a whole factor: edges of labels stay where they are
Pixels = NDArray[np.uint8]


def percent(value: float) -> str:
    """Format a share: ``0.0312`` -> ``3.1 %``; a share above 0 never reads 0.0 %."""
    return "<0.1 %" if 0 < value < 0.0005 else f"{100 * value:.1f} %"


def swatch(colour: Sequence[int] | Pixels) -> str:
    """A small square of a class's colour."""
    red, green, blue = (int(v) for v in colour)
    return f'<i class="swatch" style="background:rgb({red},{green},{blue})"></i>'


def title(runs: Sequence[Run]) -> str:
    """The page's title: names and methods."""
    return " and ".join(f"{run.name} ({run.method})" for run in runs)


def header(runs: Sequence[Run], step: int) -> str:
    """The top of the page: the runs, and the classes learned at the slider's step."""
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
    """The classes of a step with their colours; those above `most` are only counted."""
    colours = dict(zip(shown.names, shown.colours, strict=True))
    words = [f'<span class="class">{swatch(colours[n])}{escape(n)}</span>' for n in shown.learned[:most]]
    rest = len(shown.learned) - most
    return ", ".join(words) + (f" and {rest} more" if rest > 0 else "")


def strip(run: Run, step: int) -> str:
    """All steps in a row, the slider's marked and later ones faint. Empty for a run of one step."""
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
    """The line above an image."""
    score = "" if shown.miou is None else f" · mIoU {percent(shown.miou)}"
    after = f"after step {shown.step}" if run.planned > 1 else ""
    return f"<h2>{escape(note or run.name)} <small>{(after + score).removeprefix(' · ')}</small></h2>"


def found(shares: Mapping[str, float]) -> str:
    """List the classes found in an image, from the shares of all known classes, background first."""
    background, *objects = shares.values()
    return (
        f"Found {sum(v > 0 for v in objects)} of the {count(len(objects), 'classes')} it knows; "
        f"{percent(background)} of the pixels are background."
    )


def hint(place: int) -> str:
    """Placeholder above an image that is not there yet."""
    return "<h2><small>Drop an image to see what the model finds in it.</small></h2>" if place == 0 else ""


def choices(names: Sequence[str], columns: Sequence[Mapping[str, float]]) -> list[tuple[str, str]]:
    """Labels of the class checkboxes: the class's share of the pixels in every image shown, in percent, then its name.

    Args:
        names: of all classes.
        columns: per image the shares of the classes that its network knows.
    """

    def cell(value: float | None) -> str:
        return ("–" if value is None else percent(value)[:-2]).rjust(4, FIGURE_SPACE)

    return [("  ".join([*(cell(c.get(n)) for c in columns), n]), n) for n in names]


def class_style(names: Sequence[str], colours: Mapping[str, Pixels], known: set[str], seen: set[str]) -> str:
    """CSS of the class checkboxes: each has its class's swatch; classes that are not in the image are faint."""
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
    """A line below the upload: a remark, or why something was not done."""
    return (
        f'<p class="{kind}" role="{"alert" if kind == "refusal" else "status"}">{escape(message)}</p>'
        if message
        else ""
    )


def hide(label: Pixels, names: Sequence[str], shown: Collection[str]) -> Pixels:
    """Turn the labels of hidden classes into background (channel 0).

    Args:
        label: channels, ``(H, W)``.
        names: by channel, background first.
        shown: names of the classes to keep.
    """
    table = np.zeros(256, np.uint8)
    for channel, name in enumerate(names):
        table[channel] = channel if name in shown else 0
    return table[label]


def shares(label: Pixels, names: Sequence[str]) -> dict[str, float]:
    """Share of the pixels per class, in 0..1, for every name."""
    counts = np.bincount(label.ravel(), minlength=len(names))[: len(names)]
    return dict(zip(names, (counts / label.size).tolist(), strict=True))


def enlargement(shape: Sequence[int]) -> int:
    """The whole number by which an image of this shape is enlarged on the page."""
    return max(1, VIEW // max(shape[0], shape[1]))


def draw(
    pixels: Pixels, label: Pixels, colours: Pixels, names: Sequence[str], shown: Collection[str], opacity: float
) -> Pixels:
    """The image with its shown classes tinted, enlarged if it is small.

    Args:
        pixels: ``(H, W, 3)``.
        label: channels, ``(H, W)``.
        colours: by channel, ``(C, 3)``.
        names: by channel.
        shown: names of the classes to tint.
        opacity: of the tint; 0 is the image alone, 1 hides it.

    Returns:
        ``(k H, k W, 3)`` with k from `enlargement`; one label is one block of k x k pixels.
    """
    k = enlargement(pixels.shape)
    kept = hide(label, names, shown)
    if k > 1:
        height, width = label.shape
        pixels = np.asarray(Image.fromarray(pixels).resize((k * width, k * height), Image.Resampling.BICUBIC))
        kept = kept.repeat(k, 0).repeat(k, 1)
    return overlay(pixels, kept, colours, opacity)


def agreement(first: Pixels, first_names: Sequence[str], second: Pixels, second_names: Sequence[str]) -> float:
    """Share of the pixels to which two networks give a class of the same name, in 0..1."""
    known = {name: i for i, name in enumerate(dict.fromkeys((*first_names, *second_names)))}
    left = np.array([known[n] for n in first_names])[first]
    right = np.array([known[n] for n in second_names])[second]
    return float((left == right).mean())
