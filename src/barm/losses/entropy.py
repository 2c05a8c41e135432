"""Pseudo-labels by entropy, as in PLOP: thresholds on the previous model's entropy, and factors per image.

K is the number of channels of the previous model, C that of this step's, background included in both.
Source: PLOP, Douillard et al., CVPR 2021, arXiv 2011.11390; spec/plop.md sections 2 to 4.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from barm.batch import Term
from barm.labels import IGNORE
from barm.losses.common import class_histogram, count

EPSILON = 1e-8
NUM_BINS = 100


class Belief(NamedTuple):
    """The previous model's best channel and its normalised entropy, ``(N, H, W)`` each."""

    channel: Tensor
    entropy: Tensor


def belief(old: Tensor, num_seen: int) -> Belief:
    """Compute prediction and entropy of the previous model.

    The entropy is divided by ``K ln K ln C``, as published: it lies within ``0..1 / (K ln C)`` (spec/plop.md P1).

    Args:
        old: its logits at label size, ``(N, K, H, W)``.
        num_seen: C.
    """
    share, num_old = torch.softmax(old, dim=1), old.shape[1]
    entropy = -(share * torch.log(share + EPSILON)).mean(dim=1) / math.log(num_old + EPSILON)
    return Belief(share.argmax(dim=1), entropy / math.log(num_seen))


def entropy_histogram(seen: Belief, label: Tensor, num_seen: int) -> Tensor:
    """Counts of entropies on background by predicted channel, ``(C, 100)`` int64. Source: spec/plop.md section 2.2."""
    return class_histogram(seen.entropy, seen.channel, label == 0, number=num_seen, bins=NUM_BINS)


def published_thresholds(histogram: Tensor, floor: float) -> Tensor:
    """Thresholds by the published search, ``(C, 100)`` int64 -> ``(C,)`` float32.

    It is meant to find the median, but adds up bin numbers instead of counts, so the result may be NaN or infinite
    (spec/plop.md section 2.3, P2, P4). `median_thresholds` finds the median.
    """
    found = [_published_search(counts) for counts in histogram.float().cpu()]
    return torch.stack(found).to(histogram.device).maximum(torch.tensor(floor, device=histogram.device))


def _published_search(counts: Tensor) -> Tensor:
    half = counts.sum() / 2
    if half == 0:
        return half
    passed, k = torch.tensor(0.0), 0
    for k in range(NUM_BINS):
        found = counts[int(NUM_BINS * (k / NUM_BINS))]
        if passed <= half <= passed + found:
            break
        passed = passed + k
    return k / NUM_BINS + (half - passed) / counts[int(NUM_BINS * (k / NUM_BINS))] / NUM_BINS


def median_thresholds(histogram: Tensor, floor: float) -> Tensor:
    """Medians of the histogram, linearly interpolated, ``(C, 100)`` -> ``(C,)``. Source: spec/plop.md section 2.4."""
    counts = histogram.float()
    half = counts.sum(dim=1, keepdim=True) / 2
    total = counts.cumsum(dim=1)
    k = (total >= half).float().argmax(dim=1, keepdim=True)
    inside_bin = counts.gather(1, k)
    inside = (half - (total.gather(1, k) - inside_bin)) / inside_bin.clamp(min=1)
    return ((k + inside) / NUM_BINS).squeeze(1).clamp(min=floor)


class Targets(NamedTuple):
    """New labels ``(N, H, W)`` int64, and one factor per image ``(N,)``."""

    label: Tensor
    factor: Tensor


def believed_labels(seen: Belief, label: Tensor, thresholds: Tensor, *, num_old: int) -> Targets:
    """Replace background labels by the previous model's prediction where it is confident, and ignore them elsewhere.

    The factor is the share of confident pixels among an image's background; an image without background has
    the factor 0, new classes included (spec/plop.md section 3, P5).

    Args:
        seen: `belief` of the previous model.
        label: channels, ``(N, H, W)`` int64; not changed.
        thresholds: per channel, ``(C,)``; entropies below are confident.
        num_old: K; labels below count as background.
    """
    background = label < num_old
    confident = seen.entropy < thresholds[seen.channel]
    new = torch.where(background, torch.where(confident, seen.channel, IGNORE), label)
    believed = (background & confident).flatten(1).sum(dim=1)
    return Targets(new, believed / (background.flatten(1).sum(dim=1) + 1e-6))


def adaptive_cross_entropy(logits: Tensor, targets: Targets) -> Term:
    """Cross-entropy weighted per image; the mean runs over all pixels, ignored ones included (section 4, P6)."""
    loss = F.cross_entropy(logits, targets.label, ignore_index=IGNORE, reduction="none")
    return Term((loss * targets.factor[:, None, None]).sum(), count(loss.numel(), loss))
