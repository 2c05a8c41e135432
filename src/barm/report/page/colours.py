"""Colours of the page: series, maps of values, and readable text on them."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray

LEVELS = 50  # of a map of values
SERIES = 8  # colours and dashes before they repeat; they stand in page.css as --s0 .. --s7
DASHES = ("", "7 3", "2 3", "9 3 2 3", "4 2", "12 4", "1 4", "6 2 2 2")
NEGATIVE, NEUTRAL, POSITIVE = (0xD5, 0x5E, 0x00), (0xF7, 0xF7, 0xF7), (0x00, 0x72, 0xB2)  # Okabe and Ito's ends


def level(value: float, low: float = 0.0, high: float = 1.0) -> int:
    """Index of the colour level of a value, of ``LEVELS + 1`` levels.

    >>> level(0), level(0.5), level(2)
    (0, 25, 50)
    """
    return round(LEVELS * min(max((value - low) / (high - low), 0.0), 1.0))


def sequential_rules() -> str:
    """CSS of the classes ``v0 .. v50``: viridis with black or white text."""
    colours = (255 * np.array(mpl.colormaps["viridis"](np.linspace(0, 1, LEVELS + 1)))[:, :3]).round().astype(int)
    return "".join(
        f".v{i}{{background:#{r:02x}{g:02x}{b:02x};color:{'#000' if bright(r, g, b) else '#fff'}}}\n"
        for i, (r, g, b) in enumerate(colours.tolist())
    )


def mixed_rules() -> str:
    """CSS of shares and differences: the page's background mixed with a hue, for light and dark pages."""
    rules = []
    for i in range(LEVELS + 1):
        for letter, hue in (("k", "positive"), ("p", "positive"), ("n", "negative")):
            text = ";color:var(--on-hue)" if i > LEVELS * 0.55 else ""
            mix = f"color-mix(in oklab,var(--{hue}) {100 * i / LEVELS:.0f}%,var(--card))"
            rules.append(f".{letter}{i}{{background:{mix}{text}}}\n")
    return "".join(rules)


def bright(red: int, green: int, blue: int) -> bool:
    """Whether black text is more readable on this colour than white, by WCAG's relative luminance."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (red / 255, green / 255, blue / 255)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] > 0.179


def diverging() -> NDArray[np.uint8]:
    """Colour per byte, ``(256, 3)``: orange below 128, white, blue above."""
    ends = np.array([NEGATIVE, NEUTRAL, POSITIVE], np.float64)
    places = np.linspace(0, 2, 256)
    return np.stack([np.interp(places, [0, 1, 2], ends[:, c]) for c in range(3)], axis=1).round().astype(np.uint8)
