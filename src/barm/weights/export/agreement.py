"""Check that a file predicts the same as PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from barm.data.sources import open_source
from barm.data.sources.shapes import MAX_SHAPES, render
from barm.engine.checkpoint.directory import RunDirectory
from barm.errors import UserError
from barm.ops.upsampled import upsample
from barm.weights.export.portable import LEAST_SIDE
from barm.weights.hub import is_address
from barm.weights.trained import Trained
from barm.words import count

Predict = Callable[[NDArray[np.uint8]], tuple[NDArray[Any], NDArray[Any]]]
EQUAL, DIFFERENCE, RELATIVE = 0.999, 1e-3, 1e-2  # what a file has to reach: share of equal labels, scores
TIE = 1e-6  # between scores that are equal up to rounding, as saturated sigmoids are
LEAST_SCORE = 1e-3  # below it, a difference is taken relative to this
OWN, LONGEST = 6, 640  # images of the run's own validation split that are looked at, and their longest side
INFORMATIVE = 3  # classes in the labels, with background, from which on equal labels tell something
SIZES = (  # batch, height, width: the least, odd and even, flat and tall; the last is beyond the window of `neck.POOL`
    (1, LEAST_SIDE, LEAST_SIDE),
    (3, 64, 64),
    (2, 97, 131),
    (1, 240, 113),
    (1, 150, 320),
    (1, 545, 337),
)


@dataclass(frozen=True)
class Agreement:
    """Agreement of a file's predictions with those of the run's network in PyTorch, in fp32.

    A score is the largest probability of a class at a pixel, the file's ``confidence``.

    Attributes:
        images: number of compared images.
        sizes: number of sizes of the generated images.
        own: number of images from the run's own validation split.
        classes: number of classes in PyTorch's labels, with background.
        equal: share of pixels with the same label, or with one that is as likely up to rounding.
        difference: largest difference between the scores of a pixel.
        relative: the same as a share of PyTorch's score.
        scores: PyTorch's lowest and highest score.
        by_channel: for every channel in PyTorch's labels its share of the pixels, and how many of these are equal.
    """

    images: int
    sizes: int
    own: int
    classes: int
    equal: float
    difference: float
    relative: float
    scores: tuple[float, float]
    by_channel: Mapping[int, tuple[float, float]]

    def __str__(self) -> str:
        own = f", {self.own} of them the run's own validation images," if self.own else f" of {self.sizes} sizes"
        return f"{count(self.images, 'images')}{own} {self.result}"

    @property
    def result(self) -> str:
        """What was found, without the images that it was found on."""
        low, high = self.scores
        relative = f"{100 * self.relative:.{'1g' if self.relative < 0.1 else '0f'}}"
        classes = count(self.classes, "classes")
        few = (
            ""
            if self.classes >= INFORMATIVE
            else f"; only {classes} in PyTorch's labels, so that the equal labels prove little "
            "and the scores alone count"
        )
        return (
            f"with {classes}: {100 * self.equal:.3f} % of the labels equal PyTorch's, scores from {low:.2f} to "
            f"{high:.2f} differ by at most {self.difference:.1e} ({relative} % of the score){few}"
        )


def compare(
    trained: Trained,
    predict: Predict,
    what: str,
    own: Sequence[NDArray[np.uint8]] = (),
    least: int = LEAST_SIDE,
) -> Agreement:
    """Compare a file with the trained network: on images of its own data, generated images and noise.

    Args:
        trained: the network; used as it is, with batch norm, in fp32.
        predict: the file's prediction: ``(N, H, W, 3)`` uint8 -> labels and confidences, ``(N, H, W)`` each.
        what: name of the file in messages.
        own: images like those that the network was trained on, ``(H, W, 3)`` uint8 each.
        least: side of the smallest images that the file takes, in pixels.

    Raises:
        UserError: if they agree less than an exported file has to.
    """
    sizes = [size for size in SIZES if min(size[1:]) >= least]
    batches = (*(one[None] for one in own), *_batches(trained.method.step.num_seen, sizes))
    seen = measure(trained, predict, (image for image in batches if min(image.shape[1:3]) >= least))
    found = replace(seen, sizes=len(sizes), own=len(own))
    if not (found.equal >= EQUAL and found.difference <= DIFFERENCE and found.relative <= RELATIVE):
        raise UserError(
            f"{what} does not agree with PyTorch ({found}; expected {100 * EQUAL} % and at most {DIFFERENCE:.0e}, or "
            f"{100 * RELATIVE:.0f} % of the score): nothing was written; try another version of torch, or another "
            "format"
        )
    return found


def measure(trained: Trained, predict: Predict, batches: Iterable[NDArray[np.uint8]]) -> Agreement:
    """Measure how far a file agrees with the trained network; there is no bar.

    Args:
        trained: as for `compare`.
        predict: as for `compare`.
        batches: at least one, ``(N, H, W, 3)`` uint8 each.
    """
    counts = np.zeros((2, 256), np.int64)  # by PyTorch's channel: pixels, and equal ones
    images = 0
    difference = relative = 0.0
    scores = list[float]()
    for image in batches:
        labels, confidence = (np.asarray(t) for t in predict(image))
        expected, best = in_pytorch(trained, image)
        same = labels == expected
        if not same.all():
            same |= as_likely(trained, image, labels)
        counts += [np.bincount(some.ravel(), minlength=256) for some in (expected, expected[same])]
        images += len(image)
        apart = np.abs(confidence - best)
        difference = float(np.maximum(difference, apart.max()))  # NaN stays
        relative = float(np.maximum(relative, (apart / np.maximum(best, LEAST_SCORE)).max()))
        scores += [float(best.min()), float(best.max())]
    (pixels, equal), span = counts, (min(scores), max(scores))
    by_channel = {i: (pixels[i] / pixels.sum(), equal[i] / pixels[i]) for i in np.flatnonzero(pixels).tolist()}
    share = float(equal.sum() / pixels.sum())
    return Agreement(images, 0, 0, len(by_channel), share, difference, relative, span, by_channel)


def own_images(run: Path | str, split: Literal["train", "val"] = "val", most: int = OWN) -> list[NDArray[np.uint8]]:
    """Some images of a run's own data, ``(H, W, 3)`` uint8 with sides up to `LONGEST`; none if they are not there.

    Args:
        run: a run's folder; a file or a hub's model has no images.
        split: of the data.
        most: number of images, spread evenly over the split.
    """
    if is_address(run) or not Path(run).is_dir():
        return []
    config = RunDirectory(Path(run)).config().data
    if config.root is None:
        return []
    try:
        source = open_source(config.layout, config.root, split, config.names)
        chosen = np.linspace(0, len(source) - 1, min(most, len(source))).round().astype(int)
        return shrunk(source[i].image for i in chosen.tolist())
    except (UserError, OSError):
        return []


def shrunk(images: Iterable[Image.Image], least: int = LEAST_SIDE) -> list[NDArray[np.uint8]]:
    """Images with sides up to `LONGEST`, ``(H, W, 3)`` uint8, without those that have a side below `least`."""
    found = []
    for one in images:  # one at a time, as large ones fill the memory
        smaller = one.copy()
        smaller.thumbnail((LONGEST, LONGEST))
        found += [np.asarray(smaller)] if min(smaller.size) >= least else []
    return found


@torch.no_grad()
def in_pytorch(trained: Trained, image: NDArray[np.uint8]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Labels and confidences of the trained network in PyTorch, ``(N, H, W)`` each."""
    out = trained.network(torch.from_numpy(image.transpose(0, 3, 1, 2).copy()))
    size = (image.shape[1], image.shape[2])
    labels, (best, _) = trained.method.predict(out, size), trained.method.confidence(out, size)
    return labels.numpy(), best.numpy()


@torch.no_grad()
def as_likely(trained: Trained, image: NDArray[np.uint8], labels: NDArray[Any]) -> NDArray[np.bool_]:
    """Where these labels have the largest score in PyTorch up to `TIE`, ``(N, H, W)``: there either label is right."""
    method, size = trained.method, (image.shape[1], image.shape[2])
    out = trained.network(torch.from_numpy(image.transpose(0, 3, 1, 2).copy()))
    scores = method.decided(upsample(method.upsampled(out), size))
    own = scores.gather(1, torch.from_numpy(labels.astype(np.int64))[:, None])[:, 0]
    return np.asarray((own >= scores.amax(dim=1) - TIE).numpy())


def _batches(num_classes: int, sizes: Sequence[tuple[int, int, int]] = SIZES) -> Iterator[NDArray[np.uint8]]:
    """Test images in many sizes: generated scenes (the last of a larger batch is noise), and areas of random colours.

    Noise looks the same everywhere to a network, so that its labels are mostly one class; large areas vary.
    """
    rng = np.random.default_rng(0)
    number = min(max(num_classes - 1, 1), MAX_SHAPES)
    for batch, height, width in sizes:
        scenes = [
            render(i, split="export", num_classes=number, size=(width, height), seed=height).image for i in range(batch)
        ]
        if batch > 1:
            scenes[-1] = rng.integers(0, 256, scenes[-1].shape, np.uint8)
        yield np.stack(scenes)
        areas = Image.fromarray(rng.integers(0, 256, (5, 7, 3), np.uint8)).resize(
            (width, height), Image.Resampling.BICUBIC
        )
        yield np.asarray(areas)[None]
