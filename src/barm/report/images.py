"""Write predictions as images: indexed masks, colour masks, overlays with a legend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from barm.labels import IGNORE
from barm.report.figures import colourise, overlay

Pixels = NDArray[np.uint8]
FONT, LINE, SWATCH, GAP = 14, 20, 12, 8  # pixels
PAPER, INK, EDGE = (255, 255, 255), (20, 20, 20), (140, 140, 140)
LARGE = 640  # the side from which the legend's letters grow with the image
TINY, ENLARGED = 240, 320  # an image with a smaller long side is enlarged in its overlay, in whole steps


def index_mask(label: Pixels, colours: Pixels, values: Sequence[int] | None = None) -> Image.Image:
    """Make a palette image of channels, or of other numbers of the classes.

    Args:
        label: channels, ``(H, W)``; 255 is white.
        colours: by channel, ``(C, 3)``.
        values: by channel, what the mask is to hold, such as the data set's ids; channels by default.
    """
    table = np.arange(256, dtype=np.uint8)
    palette = np.zeros((256, 3), np.uint8)
    numbers = list(range(len(colours))) if values is None else list(values)
    table[: len(numbers)] = numbers
    palette[numbers] = colours
    palette[IGNORE] = 255
    last = IGNORE if label.size and label.max() == IGNORE else max(numbers)
    mask = Image.fromarray(table[label])
    mask.putpalette(palette[: last + 1].flatten().tolist())  # a file has as many bits as the palette needs
    return mask


def colour_mask(label: Pixels, colours: Pixels) -> Image.Image:
    """Make an image in which every class has its colour."""
    return Image.fromarray(colourise(label, colours))


def overlay_image(
    image: Image.Image, label: Pixels, colours: Pixels, names: Mapping[int, str] | None = None
) -> Image.Image:
    """Make an overlay: the image with tinted and outlined objects, and a legend of the colours below.

    Args:
        image: the image.
        label: channels, ``(H, W)``.
        colours: by channel, ``(C, 3)``.
        names: names for the legend by channel. Without them there is no legend, and the overlay has the image's size;
            with a legend, tiny images are enlarged.
    """
    times = max(1, ENLARGED // max(image.size)) if names and max(image.size) < TINY else 1
    large = image.convert("RGB").resize((image.width * times, image.height * times), Image.Resampling.NEAREST)
    mixed = Image.fromarray(overlay(np.asarray(large), label.repeat(times, 0).repeat(times, 1), colours))
    return mixed if not names else with_legend(mixed, [(name, tuple(colours[c])) for c, name in names.items()])


def with_legend(image: Image.Image, entries: Sequence[tuple[str, tuple[int, ...]]]) -> Image.Image:
    """Add a legend of names and colours below an image, as many side by side as fit."""
    unit = max(1.0, min(image.size) / LARGE)
    font = ImageFont.load_default(round(FONT * unit))
    line, swatch, gap = (round(v * unit) for v in (LINE, SWATCH, GAP))
    widths = [3 * gap + swatch + round(font.getlength(name)) for name, _ in entries]
    width = max(image.width, *widths)
    places, x, row = [], 0, 0
    for w in widths:
        if x and x + w > width:
            x, row = 0, row + 1
        places.append((x + gap, row))
        x += w
    paper = Image.new("RGB", (width, image.height + 2 * (gap // 2) + (row + 1) * line), PAPER)
    paper.paste(image, ((width - image.width) // 2, 0))
    pen = ImageDraw.Draw(paper)
    for (name, colour), (left, row) in zip(entries, places, strict=True):
        middle = image.height + gap // 2 + row * line + line // 2
        top = middle - swatch // 2
        pen.rectangle((left, top, left + swatch, top + swatch), fill=tuple(map(int, colour)), outline=EDGE)
        pen.text((left + swatch + gap, middle), name, fill=INK, font=font, anchor="lm")
    return paper


def encoded(image: Image.Image, kind: str, **options: int) -> bytes:
    """Encode an image as ``PNG`` or ``JPEG``."""
    content = BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()
