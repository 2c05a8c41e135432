"""The Triton kernels of `barm.ops.triton`; imported by it alone, where Triton exists."""

# Triton compiles these functions: annotations are its own, and loops over channels are loops on the device.
# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _cell(starts_y, share_y, starts_x, share_x, k, j, BY: tl.constexpr, BX: tl.constexpr):
    """Coordinates of a cell's pixels, which of them exist, and their weights of the second corner along both axes."""
    top, bottom = tl.load(starts_y + k), tl.load(starts_y + k + 1)
    left, right = tl.load(starts_x + j), tl.load(starts_x + j + 1)
    y, x = top + tl.arange(0, BY), left + tl.arange(0, BX)
    inside_y, inside_x = y < bottom, x < right
    fy = tl.load(share_y + y, mask=inside_y, other=0.0)
    fx = tl.load(share_x + x, mask=inside_x, other=0.0)
    return y[:, None], x[None, :], inside_y[:, None] & inside_x[None, :], fy[:, None], fx[None, :]


@triton.jit
def _interpolated(plane, k, j, h, w, fy, fx):
    """Interpolate the values of a cell, ``(BY, BX)``."""
    y0, y1 = tl.maximum(k - 1, 0), tl.minimum(k, h - 1)
    x0, x1 = tl.maximum(j - 1, 0), tl.minimum(j, w - 1)
    upper = tl.load(plane + y0 * w + x0) * (1 - fx) + tl.load(plane + y0 * w + x1) * fx
    lower = tl.load(plane + y1 * w + x0) * (1 - fx) + tl.load(plane + y1 * w + x1) * fx
    return upper * (1 - fy) + lower * fy


@triton.jit
def sums(
    logits,
    label,
    weights,
    starts_y,
    share_y,
    starts_x,
    share_x,
    totals,
    corners,
    channels,
    h,
    w,
    height,
    width,
    IGNORE: tl.constexpr,
    GRADIENT: tl.constexpr,
    WEIGHTED: tl.constexpr,
    BY: tl.constexpr,
    BX: tl.constexpr,
):
    """Sum the binary cross-entropy of a cell over all channels, with its gradient at the four corners.

    `weights` are those of the channels' own pixels.
    """
    n, k, j = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    y, x, inside, fy, fx = _cell(starts_y, share_y, starts_x, share_x, k, j, BY, BX)
    wanted = tl.load(label + (n.to(tl.int64) * height + y) * width + x, mask=inside, other=IGNORE)
    valid = inside & (wanted != IGNORE)
    total = tl.zeros((BY, BX), tl.float32)
    for c in range(channels):
        value = _interpolated(logits + (n.to(tl.int64) * channels + c) * h * w, k, j, h, w, fy, fx)
        small = tl.exp(-tl.abs(value))
        positive = wanted == c
        weight = 1.0
        if WEIGHTED:
            weight = tl.load(weights + c)
        loss = tl.maximum(value, 0.0) + tl.log(1 + small)
        loss = tl.where(positive, weight * (loss - value), loss)
        total += tl.where(valid, loss, 0.0)
        if GRADIENT:
            probability = tl.where(value >= 0, 1.0, small) / (1 + small)
            gradient = tl.where(valid, tl.where(positive, weight * (probability - 1.0), probability), 0.0)
            upper, lower = gradient * (1 - fy), gradient * fy
            place = corners + (((n.to(tl.int64) * channels + c) * (h + 1) + k) * (w + 1) + j) * 4
            tl.store(place, tl.sum(upper * (1 - fx)))
            tl.store(place + 1, tl.sum(upper * fx))
            tl.store(place + 2, tl.sum(lower * (1 - fx)))
            tl.store(place + 3, tl.sum(lower * fx))
    tl.store(totals + (n * (h + 1) + k) * (w + 1) + j, tl.sum(total))


@triton.jit
def best(
    scores,
    starts_y,
    share_y,
    starts_x,
    share_x,
    largest,
    channel,
    logsumexp,
    channels,
    h,
    w,
    height,
    width,
    BY: tl.constexpr,
    BX: tl.constexpr,
):
    """Find the largest score of every pixel and its channel, and the logarithm of the sum of exponentials."""
    n, k, j = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    y, x, inside, fy, fx = _cell(starts_y, share_y, starts_x, share_x, k, j, BY, BX)
    peak = tl.full((BY, BX), float("-inf"), tl.float32)
    where = tl.zeros((BY, BX), tl.int64)
    total = tl.zeros((BY, BX), tl.float32)
    for c in range(channels):
        value = _interpolated(scores + (n.to(tl.int64) * channels + c) * h * w, k, j, h, w, fy, fx)
        higher = value > peak
        before = tl.where(higher, value, peak)
        total = total * tl.exp(peak - before) + tl.exp(value - before)
        where = tl.where(higher, c, where)
        peak = before
    place = (n.to(tl.int64) * height + y) * width + x
    tl.store(largest + place, peak, mask=inside)
    tl.store(channel + place, where, mask=inside)
    tl.store(logsumexp + place, peak + tl.log(total), mask=inside)
