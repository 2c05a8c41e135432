"""Does a file predict what PyTorch predicts?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from barm.data.shapes import MAX_SHAPES, render
from barm.errors import UserError
from barm.export.portable import LEAST_SIDE
from barm.trained import Trained

Predict = Callable[[NDArray[np.uint8]], tuple[NDArray[Any], NDArray[Any]]]
EQUAL, DIFFERENCE = 0.999, 1e-3  # what a file has to reach: share of equal labels, probabilities
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
    """How near a file's predictions are to those of the run's network in PyTorch, in fp32.

    Attributes:
        pictures: that were compared.
        sizes: different ones.
        classes: that occur in PyTorch's labels, with background.
        equal: share of pixels with the same label.
        difference: largest one between the confidences of a pixel.
    """

    pictures: int
    sizes: int
    classes: int
    equal: float
    difference: float

    def __str__(self) -> str:
        return (
            f"{self.pictures} pictures of {self.sizes} sizes with {self.classes} classes: {100 * self.equal:.3f} % of "
            f"the labels equal PyTorch's, confidences differ by at most {self.difference:.1e}"
        )


def compare(trained: Trained, predict: Predict, what: str) -> Agreement:
    """Compare a file with the network as it was trained, on generated pictures and on noise.

    Args:
        trained: the network; used as it is, with batch norm, in fp32.
        predict: the file's way: ``(N, H, W, 3)`` uint8 -> labels and confidences, ``(N, H, W)`` each.
        what: how to call the file in a message.

    Raises:
        UserError: if they agree less than an exported file has to.
    """
    equal = pixels = pictures = 0
    difference, seen = 0.0, set[int]()
    for image in _batches(trained.method.step.num_seen):
        labels, confidence = (np.asarray(t) for t in predict(image))
        expected, best = in_pytorch(trained, image)
        equal, pixels = equal + int((labels == expected).sum()), pixels + expected.size
        pictures, seen = pictures + len(image), seen | set(np.unique(expected).tolist())
        difference = max(difference, float(np.abs(confidence - best).max()))
    found = Agreement(pictures, len(SIZES), len(seen), equal / pixels, difference)
    if not (found.equal >= EQUAL and found.difference <= DIFFERENCE):
        raise UserError(
            f"{what} does not agree with PyTorch ({found}; expected {100 * EQUAL} % and {DIFFERENCE:.0e}): nothing was "
            "written; try another version of torch, or another format"
        )
    return found


@torch.no_grad()
def in_pytorch(trained: Trained, image: NDArray[np.uint8]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Labels and confidences of the network as it was trained, ``(N, H, W)`` each."""
    out = trained.network(torch.from_numpy(image.transpose(0, 3, 1, 2).copy()))
    size = (image.shape[1], image.shape[2])
    labels, (best, _) = trained.method.predict(out, size), trained.method.confidence(out, size)
    return labels.numpy(), best.numpy()


def _batches(num_classes: int) -> Iterator[NDArray[np.uint8]]:
    """Generated scenes, the last picture of a batch of several noise."""
    rng = np.random.default_rng(0)
    number = min(max(num_classes - 1, 1), MAX_SHAPES)
    for batch, height, width in SIZES:
        scenes = [
            render(i, split="export", num_classes=number, size=(width, height), seed=height).image for i in range(batch)
        ]
        if batch > 1:
            scenes[-1] = rng.integers(0, 256, scenes[-1].shape, np.uint8)
        yield np.stack(scenes)
