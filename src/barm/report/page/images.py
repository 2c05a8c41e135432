"""Pixels as data URIs: photographs as JPEG, labels and maps of values as palette PNG."""

from __future__ import annotations

from base64 import b64encode
from io import BytesIO

import numpy as np
from PIL import Image

from barm.report.page.colours import diverging
from barm.report.page.content import Pixels, Values

QUALITY = 84


def photograph(pixels: Pixels) -> str:
    """``(H, W, 3)`` as JPEG."""
    return _uri(Image.fromarray(pixels), "jpeg", quality=QUALITY, optimize=True)


def labels(ids: Pixels, colours: Pixels) -> str:
    """Ids ``(H, W)`` in the classes' colours as PNG; id 0 is transparent, so that it can lie over the picture."""
    used, small = np.unique(ids, return_inverse=True)
    image = Image.fromarray(small.reshape(ids.shape).astype(np.uint8))
    image.putpalette(colours[used].flatten().tolist())
    clear = {"transparency": bytes(0 if i == 0 else 255 for i in used.tolist())} if 0 in used else {}
    return _uri(image, "png", optimize=True, bits=_bits(len(used)), **clear)


def heat(values: Values, limit: float) -> str:
    """Values ``(h, w)`` between ``-limit`` (orange), 0 (white) and ``limit`` (blue) as PNG."""
    scaled = np.clip(np.nan_to_num(values) / limit, -1, 1)
    image = Image.fromarray((127.5 * (1 + scaled)).round().astype(np.uint8))
    image.putpalette(diverging().flatten().tolist())
    return _uri(image, "png", optimize=True)


def _bits(colours: int) -> int:
    """Smallest depth of a PNG palette."""
    return next(bits for bits in (1, 2, 4, 8) if colours <= 1 << bits)


def _uri(image: Image.Image, kind: str, **options: object) -> str:
    content = BytesIO()
    image.save(content, kind, **options)
    return f"data:image/{kind};base64,{b64encode(content.getvalue()).decode()}"
