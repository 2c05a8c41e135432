"""Augmentation and evaluation transforms. Random choices are drawn first and applied by pure functions."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from barm.data.base import Sample

Pixels = NDArray[np.uint8]

Geometry = Literal["rescale", "resized_crop"]
ATTEMPTS, ASPECT = 10, (3 / 4, 4 / 3)  # of the resized crop
WHOLE = 6  # times the crop's area up to which an image is resized as a whole


class TrainTransform(NamedTuple):
    """Random crop and flip.

    Attributes:
        crop: side of the square result.
        geometry: `rescale` scales the image by a random factor, pads and crops (spec/barm.md section 4);
            `resized_crop` stretches a random part of the image to the crop (spec/mib.md section 9.3).
        scale: range of the factor, or of the part's share of the image's area.
        flip: probability of a horizontal flip.
        pad_label: label of padding (in channels, so 0 is background and 255 ignore); only `rescale` pads.
    """

    crop: int
    geometry: Geometry = "rescale"
    scale: tuple[float, float] = (0.5, 2.0)
    flip: float = 0.5
    pad_label: int = 0


class Draw(NamedTuple):
    """One set of random choices: size after scaling ``(width, height)``, crop offsets in the padded image, flip."""

    size: tuple[int, int]
    top: int
    left: int
    flip: bool


class Region(NamedTuple):
    """One set of random choices of a resized crop: the part of the image, in its pixels, and flip."""

    left: int
    top: int
    width: int
    height: int
    flip: bool


class EvalTransform(NamedTuple):
    """Evaluation transform: short side to `crop` and centre crop, or native size where `crop` is None."""

    crop: int | None


def padding(width: int, height: int, crop: int) -> int:
    """Pixels added on all four sides: ``ceil(missing / 2)`` for the width, then for the height after that.

    Source: spec/ssul.md section 11.
    """
    pad = max(0, math.ceil((crop - width) / 2))
    return pad + max(0, math.ceil((crop - height - 2 * pad) / 2))


def draw(rng: np.random.Generator, size: tuple[int, int], config: TrainTransform) -> Draw:
    """Choose scale, crop and flip for an image of this ``(width, height)``."""
    factor = rng.uniform(*config.scale)
    width, height = max(1, int(size[0] * factor)), max(1, int(size[1] * factor))
    pad = padding(width, height, config.crop)
    top = int(rng.integers(0, height + 2 * pad - config.crop + 1))
    left = int(rng.integers(0, width + 2 * pad - config.crop + 1))
    return Draw((width, height), top, left, bool(rng.random() < config.flip))


def apply_to_image(image: Image.Image, choice: Draw, crop: int) -> Pixels:
    """Scale, pad with black, crop and flip, ``(crop, crop, 3)`` uint8.

    The result is a view of planes. torch resizes 8-bit images three times as fast as Pillow, so the whole is resized
    where the crop is a fair part of it; of a large image Pillow reads the box that is needed. Both equal Pillow's
    resize-then-crop within 1/255.
    """
    window = _window(choice, crop)
    (x0, x1), (y0, y1) = window.x, window.y
    result = torch.zeros(3, crop, crop, dtype=torch.uint8)
    if x1 > x0 and y1 > y0:
        if choice.size[0] * choice.size[1] <= WHOLE * crop * crop:
            part = resized(np.array(image), choice.size)[:, y0:y1, x0:x1]
        else:
            fx, fy = image.width / choice.size[0], image.height / choice.size[1]
            box = (x0 * fx, y0 * fy, min(x1 * fx, image.width), min(y1 * fy, image.height))
            part = _planes(np.array(image.resize((x1 - x0, y1 - y0), Image.Resampling.BILINEAR, box=box)))
        result[:, window.rows, window.columns] = part
    return _pixels(result.flip(2) if choice.flip else result)


def resized(pixels: Pixels, size: tuple[int, int]) -> Tensor:
    """Resize bilinearly with Pillow's antialiasing, ``(H, W, 3)`` -> ``(3, height, width)`` uint8."""
    return F.interpolate(_planes(pixels)[None], size=size[::-1], mode="bilinear", antialias=True)[0]


def _planes(pixels: Pixels) -> Tensor:
    """``(H, W, 3)`` -> ``(3, H, W)``, a view."""
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _pixels(planes: Tensor) -> Pixels:
    """``(3, H, W)`` -> ``(H, W, 3)``, a view."""
    return np.asarray(planes.permute(1, 2, 0).numpy())


def apply_to_map(values: Pixels, choice: Draw, crop: int, pad: int) -> Pixels:
    """Scale, pad, crop and flip a map of ids, nearest neighbour, ``(H, W)`` -> ``(crop, crop)`` uint8."""
    window = _window(choice, crop)
    height, width = values.shape
    result = np.full((crop, crop), pad, np.uint8)
    rows = nearest_sources(height, choice.size[1])[slice(*window.y)]
    columns = nearest_sources(width, choice.size[0])[slice(*window.x)]
    result[window.rows, window.columns] = values[rows].take(columns, axis=1)
    return result[:, ::-1] if choice.flip else result


class _Window(NamedTuple):
    """The part of the scaled image that the crop shows, and its position in the crop."""

    x: tuple[int, int]
    y: tuple[int, int]
    rows: slice
    columns: slice


def _window(choice: Draw, crop: int) -> _Window:
    width, height = choice.size
    pad = padding(width, height, crop)
    left, top = choice.left - pad, choice.top - pad
    x0, y0 = max(left, 0), max(top, 0)
    x1, y1 = max(min(left + crop, width), x0), max(min(top + crop, height), y0)
    return _Window((x0, x1), (y0, y1), slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))


def draw_region(rng: np.random.Generator, size: tuple[int, int], config: TrainTransform) -> Region:
    """Choose a part of an image of this ``(width, height)`` for a resized crop.

    Area and aspect ratio are drawn up to ten times until the part fits; else it is the largest centred one whose ratio
    is within bounds. Shares above 1 never fit: they only make that more frequent. Source: spec/mib.md section 9.3, Q7.
    """
    width, height = size
    bounds = math.log(ASPECT[0]), math.log(ASPECT[1])
    for _ in range(ATTEMPTS):
        area = rng.uniform(*config.scale) * width * height
        ratio = math.exp(rng.uniform(*bounds))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
            return Region(left, top, w, h, bool(rng.random() < config.flip))
    w, h = min(width, round(height * ASPECT[1])), min(height, round(width / ASPECT[0]))
    return Region((width - w) // 2, (height - h) // 2, w, h, bool(rng.random() < config.flip))


def choose(rng: np.random.Generator, size: tuple[int, int], config: TrainTransform) -> Draw | Region:
    """Draw all random choices for an image of this ``(width, height)``."""
    return draw_region(rng, size, config) if config.geometry == "resized_crop" else draw(rng, size, config)


def stretch_image(image: Image.Image, region: Region, crop: int) -> Pixels:
    """Stretch a part of an image to the crop, ``(crop, crop, 3)`` uint8."""
    x, y, w, h, flip = region
    result = np.asarray(image.crop((x, y, x + w, y + h)).resize((crop, crop), Image.Resampling.BILINEAR))
    return result[:, ::-1] if flip else result


def stretch_map(values: Pixels, region: Region, crop: int) -> Pixels:
    """Stretch a part of a map of ids to the crop, nearest neighbour, ``(H, W)`` -> ``(crop, crop)`` uint8."""
    x, y, w, h, flip = region
    result = values[y + nearest_sources(h, crop)].take(x + nearest_sources(w, crop), axis=1)
    return result[:, ::-1] if flip else result


def nearest_sources(source: int, target: int) -> NDArray[np.intp]:
    """Source index per target pixel of Pillow's nearest neighbour, taken from one row that Pillow resizes."""
    ramp = Image.fromarray(np.arange(source, dtype=np.int32)[None])
    return np.asarray(ramp.resize((target, 1), Image.Resampling.NEAREST), dtype=np.intp).reshape(target)


def train_transform(
    sample: Sample, lut: Pixels, rng: np.random.Generator, config: TrainTransform
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Augment one image and turn its ids into channels.

    Args:
        sample: image, mask, extras.
        lut: dataset id -> channel, ``(256,)``.
        rng: source of all random choices.
        config: the augmentation.

    Returns:
        Image ``(3, crop, crop)``, label ``(crop, crop)`` and extras ``(crop, crop)``, all uint8.
    """
    crop, labels = config.crop, np.asarray(sample.mask.point(lut.tolist()))
    maps = {k: np.asarray(v) for k, v in sample.extras.items()}
    choice = choose(rng, sample.image.size, config)
    if isinstance(choice, Region):
        image, label = stretch_image(sample.image, choice, crop), stretch_map(labels, choice, crop)
        extras = {k: stretch_map(v, choice, crop) for k, v in maps.items()}
    else:
        image = apply_to_image(sample.image, choice, crop)
        label = apply_to_map(labels, choice, crop, config.pad_label)
        extras = {k: apply_to_map(v, choice, crop, 0) for k, v in maps.items()}
    return _tensor(image.transpose(2, 0, 1)), _tensor(label), {k: _tensor(v) for k, v in extras.items()}


def eval_transform(sample: Sample, lut: Pixels, config: EvalTransform) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Prepare one image for evaluation: image ``(3, H, W)``, channels and extras ``(H, W)``, all uint8."""
    image, maps = sample.image, {"mask": sample.mask, **sample.extras}
    if config.crop is not None:
        image = centre_crop(image, config.crop, Image.Resampling.BILINEAR)
        maps = {k: centre_crop(v, config.crop, Image.Resampling.NEAREST) for k, v in maps.items()}
    label = _tensor(lut[np.asarray(maps.pop("mask"))])
    return _tensor(np.asarray(image).transpose(2, 0, 1)), label, {k: _tensor(np.array(v)) for k, v in maps.items()}


def centre_crop(image: Image.Image, crop: int, resampling: Image.Resampling) -> Image.Image:
    """Resize the short side to `crop`, the other to ``floor(crop * long / short)``, and crop the centre (half to even).

    Source: spec/ssul.md section 11.
    """
    width, height = image.size
    short = min(width, height)
    width, height = int(crop * width / short), int(crop * height / short)
    image = image.resize((width, height), resampling)
    left, top = round((width - crop) / 2), round((height - crop) / 2)
    return image.crop((left, top, left + crop, top + crop))


def _tensor(values: Pixels) -> Tensor:
    return torch.from_numpy(np.require(values, requirements=["C", "W"]))  # a copy only where it has to be
