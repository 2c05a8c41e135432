"""Encode pixels as data URIs: photographs as JPEG, labels and maps of values as palette PNG."""

from __future__ import annotations

from base64 import b64encode
from io import BytesIO

import numpy as np
from PIL import Image

from barm.data.palette import OVERLAY
from barm.report.figures import outlines
from barm.report.page.colours import diverging
from barm.report.page.content import Pixels, Values

QUALITY = 84
TINT, DARK = round(255 * OVERLAY), 160  # opacity of the classes' colours and of the rim around objects, of 255
LEAST = 288  # a label map with a smaller long side is enlarged, so that its outlines are thin
EDGES = 192  # the long side over the width of the outlines


def photograph(pixels: Pixels) -> str:
    """Encode ``(H, W, 3)`` as JPEG."""
    return _uri(Image.fromarray(pixels), "jpeg", quality=QUALITY, optimize=True)


def labels(ids: Pixels, colours: Pixels) -> str:
    """Encode ids ``(H, W)`` in the classes' colours as a PNG that lies over the image; small ones are enlarged.

    Id 0 is transparent, the others are as opaque as in `overlay`, with an opaque outline and a dark rim around them.
    Without outlines where an image shows more classes than a palette has room for.
    """
    times = max(1, round(LEAST / max(ids.shape)))
    used, small = np.unique(ids.repeat(times, 0).repeat(times, 1), return_inverse=True)
    small = small.reshape(ids.shape[0] * times, ids.shape[1] * times).astype(np.uint8)
    number = len(used)
    table = np.concatenate([colours[used], np.zeros((1, 3), np.uint8)])
    opacity = [0 if i == 0 else TINT for i in used.tolist()] + [DARK]
    if 2 * number + 1 <= 256:
        edge, rim = outlines(used.astype(np.uint8)[small], max(1, round(max(small.shape) / EDGES)))
        small = np.where(rim, number, np.where(edge, number + 1 + small, small)).astype(np.uint8)
        table, opacity = np.concatenate([table, colours[used]]), [*opacity, *[255] * number]
    there, small = np.unique(small, return_inverse=True)  # the palette holds what is used
    image = Image.fromarray(small.reshape(ids.shape[0] * times, ids.shape[1] * times).astype(np.uint8))
    image.putpalette(table[there].flatten().tolist())
    alpha = bytes(opacity[i] for i in there.tolist())
    return _uri(image, "png", optimize=True, bits=_bits(len(there)), transparency=alpha)


def heat(values: Values, limit: float) -> str:
    """Encode values ``(h, w)`` from ``-limit`` (orange) over 0 (white) to ``limit`` (blue) as PNG."""
    scaled = np.clip(np.nan_to_num(values) / limit, -1, 1)
    image = Image.fromarray((127.5 * (1 + scaled)).round().astype(np.uint8))
    image.putpalette(diverging().flatten().tolist())
    return _uri(image, "png", optimize=True)


def _bits(colours: int) -> int:
    """Smallest bit depth of a PNG palette for this number of colours."""
    return next(bits for bits in (1, 2, 4, 8) if colours <= 1 << bits)


def _uri(image: Image.Image, kind: str, **options: object) -> str:
    content = BytesIO()
    image.save(content, kind, **options)
    return f"data:image/{kind};base64,{b64encode(content.getvalue()).decode()}"
