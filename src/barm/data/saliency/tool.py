"""A tool that computes saliency, and the step from its values to a stored map."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from barm.data.saliency.opencv import fine_grained, open_cv2, otsu
from barm.data.saliency.record import Recipe

Pixels = NDArray[np.uint8]
Values = NDArray[np.float32]
Threshold = float | Literal["otsu"]


@dataclass(frozen=True)
class Tool:
    """A tool and its settings.

    Attributes:
        recipe: describes it.
        saliency: RGB ``(H, W, 3)`` uint8 to saliency in 0..1, ``(H, W)`` float32; threads may call it together.
        threshold: values from here on are salient, ``0 < threshold <= 1``; ``otsu`` chooses it anew for every image.
        grey: keep the values of salient pixels.
    """

    recipe: Recipe
    saliency: Callable[[Pixels], Values]
    threshold: Threshold
    grey: bool = False

    def map_of(self, image: Pixels) -> Pixels:
        """Compute the map of an image: 0 where nothing is salient, ``(H, W)`` uint8.

        Salient pixels are 255, or with `grey` their value in 1..255.
        """
        values = self.saliency(image)
        grey = np.rint(255 * values).astype(np.uint8)
        salient = grey > otsu(grey) if self.threshold == "otsu" else values >= self.threshold
        return np.where(salient, np.maximum(grey, 1) if self.grey else np.uint8(255), np.uint8(0))


def classical(threshold: Threshold = "otsu", *, grey: bool = False) -> Tool:
    """OpenCV's fine-grained saliency, which needs no network.

    Raises:
        UserError: if OpenCV, or its saliency module, is not installed.
    """
    recipe = Recipe(
        tool="OpenCV fine-grained saliency",
        version=str(open_cv2().__version__),
        settings=threshold_settings(threshold, grey),
    )
    return Tool(recipe, fine_grained, threshold, grey)


def threshold_settings(threshold: Threshold, grey: bool) -> dict[str, str]:
    """Describe the step from values to a map for a recipe.

    >>> threshold_settings(0.5, False)
    {'threshold': '0.5', 'values': '0 and 255'}
    """
    return {
        "threshold": threshold if isinstance(threshold, str) else f"{threshold:g}",
        "values": "grey" if grey else "0 and 255",
    }
