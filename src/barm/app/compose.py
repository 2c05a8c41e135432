"""What the page draws, as functions of arrays: they run at every toggle, the network does not."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from barm.report.figures import overlay

Pixels = NDArray[np.uint8]
VIEW = 640  # smaller pictures are enlarged by a whole factor: edges of labels stay where they are


def hide(label: Pixels, names: Sequence[str], shown: Collection[str]) -> Pixels:
    """The labels with the classes that are not shown turned into background (channel 0).

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
    """By which whole number a picture of this shape is enlarged to be seen."""
    return max(1, VIEW // max(shape[0], shape[1]))


def draw(
    pixels: Pixels, label: Pixels, colours: Pixels, names: Sequence[str], shown: Collection[str], opacity: float
) -> Pixels:
    """The picture with its shown classes tinted, enlarged if it is small.

    Args:
        pixels: ``(H, W, 3)``.
        label: channels, ``(H, W)``.
        colours: by channel, ``(C, 3)``.
        names: by channel.
        shown: names of the classes to tint.
        opacity: of the tint; 0 is the picture alone, 1 hides it.

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
    """Share of the pixels to which both give a class of the same name, in 0..1."""
    known = {name: i for i, name in enumerate(dict.fromkeys((*first_names, *second_names)))}
    left = np.array([known[n] for n in first_names])[first]
    right = np.array([known[n] for n in second_names])[second]
    return float((left == right).mean())
