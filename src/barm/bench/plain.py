"""BARM computed as the published code does: the baseline of the benchmarks, and a second reference of the tests.

Everything at the labels' size, for every channel: interpolated logits of student and teacher, sigmoid and argmax of all
of the teacher's, one-hot targets, a loss of every channel although most are detached; networks in NCHW with batch norm
as it is; scores counted by numpy. Source: spec/barm.md sections 3 to 5.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional as F

from barm.batch import Batch
from barm.data.base import Sample
from barm.data.transforms import Draw, padding
from barm.labels import IGNORE
from barm.models.heads import GroupedOutput
from barm.models.inputs import IMAGENET_MEAN, IMAGENET_STD

THRESHOLD, TRIPLET, FEATURES = 0.7, 5.0, 4.0


def loss(new: GroupedOutput, old: GroupedOutput | None, batch: Batch) -> Tensor:
    """The whole objective of a step, scalar."""
    label = batch.label
    logits = _upsampled(new.training_logits, label)
    if old is None:
        return _one_hot_loss(logits, label)
    with torch.no_grad():
        score, best = torch.sigmoid(_upsampled(old.logits, label)).max(dim=1)
        pseudo = torch.where((label == 0) & (best > 0) & (score >= THRESHOLD), best, label)
    known = old.logits.shape[1]
    logits = torch.cat([logits[:, :1], logits[:, 1:known].detach(), logits[:, known:]], dim=1)

    residual, size = new.heads[-1][:, 0], new.heads[-1].shape[2:]
    masks = torch.stack([(label != 0) & (label != IGNORE), label == 0], dim=1).float()
    positive, negative = F.interpolate(masks, size=size, mode="nearest").unbind(1)
    zeros = torch.zeros_like(residual)
    cross = (positive * F.binary_cross_entropy_with_logits(residual, zeros, reduction="none")).sum()
    s = torch.sigmoid(residual)
    triplet = (negative * (s - 1) ** 2 - negative * s**2).clamp(min=0).sum() / negative.sum().clamp(min=1)
    branches = zip(new.branches.chunk(len(new.heads), 1), old.branches.chunk(len(old.heads), 1), strict=False)
    features = [((f * negative[:, None] - g * negative[:, None]) ** 2).mean() for f, g in branches]
    groups = [
        F.binary_cross_entropy_with_logits(x, torch.sigmoid(z), reduction="none").mean(dim=(0, 2, 3)).sum()
        for x, z in zip(new.heads, old.heads, strict=False)
    ]
    return (
        _one_hot_loss(logits, pseudo)
        + TRIPLET * triplet
        + FEATURES * torch.stack(features).sum()
        + torch.stack(groups).sum()
        + cross / (positive.sum() + 1e-8)
    )


def _upsampled(logits: Tensor, label: Tensor) -> Tensor:
    return F.interpolate(logits, size=label.shape[1:], mode="bilinear", align_corners=False)


def _one_hot_loss(logits: Tensor, label: Tensor) -> Tensor:
    """Binary cross-entropy of all channels against one-hot labels, mean over valid pixels."""
    valid = label != IGNORE
    target = F.one_hot(label.masked_fill(~valid, 0), logits.shape[1]).permute(0, 3, 1, 2).float()
    each = F.binary_cross_entropy_with_logits(logits, target, reduction="none").sum(dim=1)
    return (each * valid).sum() / valid.sum().clamp(min=1)


def predict(out: GroupedOutput, size: tuple[int, int]) -> Tensor:
    """Sigmoid at feature resolution, all probabilities at the labels' size, argmax: ``(N, H, W)``."""
    shares = torch.sigmoid(out.logits)
    return F.interpolate(shares, size=size, mode="bilinear", align_corners=False).argmax(dim=1)


def counts(prediction: Tensor, label: Tensor, num_classes: int) -> NDArray[np.int64]:
    """Confusion counts on the processor, one image at a time."""
    total = np.zeros((num_classes, num_classes), np.int64)
    for guess, truth in zip(prediction.cpu().numpy(), label.cpu().numpy(), strict=True):
        known = truth < num_classes
        cells = num_classes * truth[known].astype(np.int64) + guess[known]
        total += np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)
    return total


def augment(sample: Sample, lut: NDArray[np.uint8], choice: Draw, crop: int) -> tuple[Tensor, Tensor]:
    """Resize the whole image, pad, crop and flip one after the other; returns normalised floats and int64 labels."""
    image = sample.image.resize(choice.size, Image.Resampling.BILINEAR)
    mask = sample.mask.resize(choice.size, Image.Resampling.NEAREST)
    pad, box = padding(*choice.size, crop), (choice.left, choice.top, choice.left + crop, choice.top + crop)
    image, mask = (ImageOps.expand(x, pad).crop(box) for x in (image, mask))
    if choice.flip:
        image, mask = ImageOps.mirror(image), ImageOps.mirror(mask)
    pixels = torch.from_numpy(np.array(image).transpose(2, 0, 1).copy()).float().div(255)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    return (pixels - mean) / std, torch.from_numpy(lut[np.asarray(mask)]).long()
