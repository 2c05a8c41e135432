"""Triton kernels: interpolation, formula and gradient in one pass over the labels' pixels.

A *cell* is the block of pixels that lie between the same two rows and columns of logits: each of its values is a
weighted mean of four corners. One program handles a cell of an image for all channels; nothing of the labels' size but
labels is read or written. Gradients leave a cell as one sum per corner and are added up afterwards, in a fixed order.

With ``TRITON_INTERPRET=1`` the same kernels run on a processor, which is how they are tested without a GPU.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from barm.batch import Term
from barm.labels import IGNORE

CORNERS = 4


def usable(tensor: Tensor) -> bool:
    """Whether Triton compiles for the device of this tensor."""
    return tensor.is_cuda and find_spec("triton") is not None


class Axis(NamedTuple):
    """Cells along one axis: the first pixel of each, with the end, and every pixel's weight of the second corner.

    Cell k lies between the logits ``max(k - 1, 0)`` and ``min(k, source - 1)``.
    """

    starts: Tensor
    share: Tensor
    block: int


@lru_cache(maxsize=32)
def _axis(source: int, target: int, device: torch.device) -> Axis:
    with torch.inference_mode(False):
        at = (torch.arange(target, dtype=torch.float32) + 0.5) * torch.tensor(source / target) - 0.5
        low = at.floor()
        starts = torch.searchsorted((low + 1).contiguous(), torch.arange(source + 2, dtype=torch.float32))
        block = 1 << max(0, int((starts.diff()).max()) - 1).bit_length()
        return Axis(starts.to(device, torch.int32), (at - low).to(device), block)


def binary_cross_entropy(logits: Tensor, label: Tensor) -> Term:
    """Binary cross-entropy of interpolated logits against one-hot labels, as `barm.losses.common` defines it.

    Args:
        logits: at feature resolution, ``(N, C, h, w)`` float32.
        label: ``(N, H, W)`` int64.
    """
    return balanced_binary_cross_entropy(logits, label, positive=None)


def balanced_binary_cross_entropy(logits: Tensor, label: Tensor, *, positive: Tensor | None) -> Term:
    """The same with weights of the channels' own pixels, ``(C,)`` float32, as `barm.losses.balanced` defines it."""
    total = _BinaryCrossEntropy.apply(logits, label, positive)
    return Term(total, (label != IGNORE).sum())


class _BinaryCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, label: Tensor, positive: Tensor | None) -> Tensor:
        number, channels, h, w = logits.shape
        rows, columns = (_axis(s, t, logits.device) for s, t in zip((h, w), label.shape[1:], strict=True))
        cells = (number, h + 1, w + 1)
        totals = logits.new_empty(cells)
        wanted = ctx.needs_input_grad[0]
        corners = logits.new_empty(number, channels, h + 1, w + 1, CORNERS) if wanted else logits.new_empty(1)
        _kernels().sums[cells](
            logits.contiguous(),
            label.contiguous(),
            totals if positive is None else positive.contiguous(),
            rows.starts,
            rows.share,
            columns.starts,
            columns.share,
            totals,
            corners,
            channels,
            h,
            w,
            *label.shape[1:],
            IGNORE=IGNORE,
            GRADIENT=wanted,
            WEIGHTED=positive is not None,
            BY=rows.block,
            BX=columns.block,
        )
        if wanted:
            ctx.save_for_backward(_at_corners(corners))
        return totals.sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * outer, None, None


def _at_corners(sums: Tensor) -> Tensor:
    """Add up sums per cell and corner ``(N, C, h + 1, w + 1, 4)`` to sums per logit ``(N, C, h, w)``."""
    top, bottom = (_meet(sums[..., k], sums[..., k + 1], 3) for k in (0, 2))
    return _meet(top, bottom, 2)


def _meet(first: Tensor, second: Tensor, axis: int) -> Tensor:
    """Add up along one axis: logit i is the first corner of cell i + 1 and the second of cell i; ends count twice."""
    cells = first.shape[axis]
    result = first.narrow(axis, 1, cells - 1) + second.narrow(axis, 0, cells - 1)
    result.narrow(axis, 0, 1).add_(first.narrow(axis, 0, 1))
    result.narrow(axis, cells - 2, 1).add_(second.narrow(axis, cells - 1, 1))
    return result


def best(scores: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Largest interpolated score, its channel, and the logarithm of the sum of exponentials, ``(N, H, W)`` each."""
    number, channels, h, w = scores.shape
    rows, columns = (_axis(s, t, scores.device) for s, t in zip((h, w), size, strict=True))
    best, total = (scores.new_empty(number, *size) for _ in range(2))
    channel = torch.empty(number, *size, dtype=torch.int64, device=scores.device)
    _kernels().best[(number, h + 1, w + 1)](
        scores.contiguous(),
        rows.starts,
        rows.share,
        columns.starts,
        columns.share,
        best,
        channel,
        total,
        channels,
        h,
        w,
        *size,
        BY=rows.block,
        BX=columns.block,
    )
    return best, channel, total


@lru_cache(maxsize=1)
def _kernels() -> Any:
    """Import the kernels when they are first used, since only CUDA builds of torch include Triton."""
    from barm.ops import kernels

    return kernels
