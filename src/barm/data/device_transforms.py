"""Augmentation on the device: workers decode and draw random numbers; the device scales, pads, crops, flips and labels.

Scaling with antialiasing is one product of matrices per axis. A matrix has a row per pixel of the crop, so that
only the crop is computed; padding is a row of zeros, a flip the reverse order of rows. Images keep their own sizes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from barm.batch import Batch
from barm.data.base import Sample
from barm.data.transforms import Draw, Pixels, Region, TrainTransform, choose, nearest_sources, padding

FAR = -1e6  # place of padding: no pixel of an image is near


class Axis(NamedTuple):
    """Positions of a crop along one axis, in pixels of the part of an image that is sent to the device.

    Attributes:
        at: position of every pixel of the crop, ``(crop,)`` float32; `FAR` in the padding.
        nearest: the nearest pixel, ``(crop,)`` int64; -1 in the padding.
        reach: distance up to which pixels have a weight, at least 1.
        part: the range of the image that is sent.
    """

    at: Tensor
    nearest: Tensor
    reach: float
    part: slice


class Placing(NamedTuple):
    """Instructions to the device for one image: both axes, dataset id -> channel ``(256,)``, label of the padding."""

    rows: Axis
    columns: Axis
    lut: Tensor
    pad: int


Placed = tuple[Tensor, Tensor, dict[str, Tensor], Placing]  # (H, W, 3), (H, W) and maps, uint8 parts of an image


def axis(source: int, target: int, crop: int, *, first: int = 0, flip: bool = False, offset: int = 0) -> Axis:
    """Compute the positions of a crop along one axis.

    Args:
        source: pixels of the image (or of the part that is stretched).
        target: pixels that it is scaled to.
        crop: side of the result.
        first: pixel of the scaled image with which the crop begins; negative where it begins with padding.
        flip: reverse it.
        offset: position of the part in the image.
    """
    shown = np.arange(first, first + crop)[:: -1 if flip else 1]
    inside = (shown >= 0) & (shown < target)
    scale = source / target
    at, reach = (shown + 0.5) * scale, max(scale, 1.0)
    low, high = (at[inside].min(), at[inside].max()) if inside.any() else (0.5, 0.5)
    begin, end = max(0, math.floor(low - reach) - 1), min(source, math.ceil(high + reach) + 1)
    nearest = nearest_sources(source, target)[shown.clip(0, target - 1)]
    return Axis(
        torch.from_numpy(np.where(inside, at - begin, FAR).astype(np.float32)),
        torch.from_numpy(np.where(inside, nearest - begin, -1).astype(np.int64)),
        reach,
        slice(offset + begin, offset + end),
    )


def place(sample: Sample, lut: Pixels, rng: np.random.Generator, config: TrainTransform) -> Placed:
    """The workers' half of `train_transform`, with the same random choices.

    Returns the needed part of the image and the instructions to the device. Arguments as in `train_transform`.
    """
    (width, height), crop, choice = sample.image.size, config.crop, choose(rng, sample.image.size, config)
    if isinstance(choice, Region):
        rows = axis(choice.height, crop, crop, offset=choice.top)
        columns = axis(choice.width, crop, crop, offset=choice.left, flip=choice.flip)
    else:
        rows, columns = _axes(choice, width, height, crop)
    where = (rows.part, columns.part)
    image, mask, *maps = (
        _tensor(np.asarray(p if p.size == sample.image.size else p.resize(sample.image.size, 0))[where])
        for p in (sample.image, sample.mask, *sample.extras.values())
    )
    placing = Placing(rows, columns, _tensor(lut), config.pad_label)
    return image, mask, dict(zip(sample.extras, maps, strict=True)), placing


def _axes(choice: Draw, width: int, height: int, crop: int) -> tuple[Axis, Axis]:
    pad = padding(*choice.size, crop)
    return (
        axis(height, choice.size[1], crop, first=choice.top - pad),
        axis(width, choice.size[0], crop, first=choice.left - pad, flip=choice.flip),
    )


def finish(items: Sequence[Placed], device: torch.device) -> Batch:
    """The device's half of `train_transform`: images and labels of a batch.

    Args:
        items: results of `place`, with scalars among the maps; of any sizes, on the CPU.
        device: on which the batch is made; nothing here waits for it.

    Returns:
        Images, labels in channels, maps by name. Labels and maps equal those of
        `train_transform`; images differ by at most 1/255, since that rounds after each axis.
    """
    made = [_finished(item, device) for item in items]
    images, labels, extras = zip(*made, strict=True)
    return Batch(torch.stack(images), torch.stack(labels), {k: torch.stack([e[k] for e in extras]) for k in extras[0]})


def _finished(item: Placed, device: torch.device) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    image, mask, maps, (rows, columns, lut, pad) = item
    pixels = image.to(device, non_blocking=True).permute(2, 0, 1).float()
    pixels = _weights(rows, pixels.shape[1], device) @ (pixels @ _weights(columns, pixels.shape[2], device).T)
    y, x = (a.nearest.to(device, non_blocking=True) for a in (rows, columns))
    outside = (y < 0).unsqueeze(1) | (x < 0)

    def show(values: Tensor) -> Tensor:
        return values.to(device, non_blocking=True).index_select(0, y.clamp(min=0)).index_select(1, x.clamp(min=0))

    label = lut.to(device, non_blocking=True)[show(mask).long()].long().masked_fill(outside, pad)
    extras = {
        k: show(v).masked_fill(outside, 0) if v.dim() == 2 else v.to(device, non_blocking=True) for k, v in maps.items()
    }
    return pixels.round_().clamp_(0, 255).to(torch.uint8), label, extras


def _weights(axis: Axis, source: int, device: torch.device) -> Tensor:
    """Pillow's bilinear weights with antialiasing, ``(crop, source)``; rows of the padding are 0."""
    distance = torch.arange(source, device=device) + 0.5 - axis.at.to(device, non_blocking=True).unsqueeze(1)
    near = (1 - distance.abs() / axis.reach).clamp(min=0)
    return near / near.sum(dim=1, keepdim=True).clamp(min=1e-6)


def _tensor(values: Pixels) -> Tensor:
    return torch.from_numpy(np.require(values, requirements=["C", "W"]))
