"""Saliency without a network: OpenCV's fine-grained saliency, and Otsu's threshold."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from barm.errors import UserError
from barm.reading import short

EXTRA = "pip install 'barm-seg[saliency]'"


def open_cv2() -> Any:
    """Import OpenCV with its saliency module.

    Raises:
        UserError: if it is not installed, or is a build without that module.
    """
    try:
        import cv2
    except ImportError as error:
        raise UserError(
            f"OpenCV's saliency is needed, but OpenCV cannot be imported ({short(error)}): {EXTRA}, or give a network "
            "with --model and a number as --threshold"
        ) from None
    if not hasattr(cv2, "saliency"):
        raise UserError(
            f"OpenCV {cv2.__version__} is installed without its saliency module: pip uninstall opencv-python "
            f"opencv-python-headless opencv-contrib-python, then {EXTRA}"
        )
    return cv2


def fine_grained(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Compute how much each pixel differs from its surroundings at several scales, the most salient being 1.

    Args:
        image: RGB, ``(H, W, 3)``.

    Returns:
        Saliency in 0..1, ``(H, W)``; all 0 where the image is uniform.

    Source: Montabone and Soto, Image and Vision Computing 2010, as OpenCV's `StaticSaliencyFineGrained` computes it.
    """
    computer = open_cv2().saliency.StaticSaliencyFineGrained_create()
    done, values = computer.computeSaliency(np.ascontiguousarray(image[..., ::-1]))
    assert done
    return np.asarray(values, np.float32)


def otsu(grey: NDArray[np.uint8]) -> int:
    """Otsu's threshold of ``(H, W)`` values: those above it are one class, the rest the other."""
    cv2 = open_cv2()
    return int(cv2.threshold(grey, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)[0])
