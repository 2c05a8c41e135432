"""Pooled cube distillation: RCIL's distillation of feature maps, pooled over windows and over channels.

Source: RCIL, Zhang et al., CVPR 2022, arXiv 2203.05402; spec/rcil.md section 7.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from barm.batch import Term
from barm.losses.common import level_distances

WINDOWS = (4, 8, 12, 16, 20, 24)


class Pooling(NamedTuple):
    """A linear map of feature maps ``(B, D, h, w)``, and its transpose."""

    apply: Callable[[Tensor], Tensor]
    transpose: Callable[[Tensor], Tensor]


def spatial_cube(
    new: Sequence[Tensor],
    old: Sequence[Tensor],
    *,
    num_seen: int,
    num_new: int,
    weight: float = 0.01,
    weight_last: float = 0.0005,
    windows: Sequence[int] = WINDOWS,
) -> Term:
    r"""Distance between squared maps, averaged over windows of the image.

    .. math::
        \frac1L \sum_\ell w_\ell \sqrt{C / N} \, \frac1{|k|} \sum_k \frac1B \sum_n
        \lVert P_k(\hat x_{\ell n}^2 - x_{\ell n}^2) \rVert_2

    The norm itself, not its square; the gradient of a zero norm is 0.

    Args:
        new: the student's maps, ``(B, D, h, w)`` each. Where one has more channels than the teacher's it holds logits:
            the extra ones are added to channel 0.
        old: the teacher's.
        num_seen: C, channels of this step's model, background included.
        num_new: N, classes of this step.
        weight: of all levels but the last.
        weight_last: of the last level, whatever it is (Q9).
        windows: sides of the windows in pixels, even numbers.
    """
    poolings = [window_mean(window) for window in windows]
    share = math.sqrt(num_seen / num_new) / (len(old) * len(poolings))
    return level_distances(
        new, old, partial(distance, poolings=poolings), share=share, weight=weight, weight_last=weight_last
    )


def channel_cube(
    new: Sequence[Tensor],
    old: Sequence[Tensor],
    *,
    num_seen: int,
    num_new: int,
    weight: float = 0.01,
    weight_last: float = 0.0005,
) -> Term:
    """Distance between squared maps, averaged over three neighbouring channels. Arguments as for `spatial_cube`.

    Published on all levels but the logits, so that the last one is the classifier's input (Q9).
    """
    pooling = Pooling(channel_mean, channel_mean)  # it is its own transpose
    share = math.sqrt(num_seen / num_new) / len(old)
    return level_distances(
        new, old, partial(distance, poolings=[pooling]), share=share, weight=weight, weight_last=weight_last
    )


def window_mean(window: int) -> Pooling:
    """Mean of every ``window x window`` pixels, ``(B, D, h, w)`` -> ``(B, D, h + 1, w + 1)``.

    Row i covers rows ``i - window / 2`` to ``i + window / 2 - 1``; beyond the border the map is 0, which counts (Q10).

    >>> window_mean(2).apply(torch.ones(1, 1, 1, 1))
    tensor([[[[0.2500, 0.2500],
              [0.2500, 0.2500]]]])
    """

    def apply(x: Tensor) -> Tensor:
        rows, columns = (averaging(length, window, x.dtype, x.device) for length in x.shape[2:])
        return rows @ (x @ columns.T)

    def transpose(x: Tensor) -> Tensor:
        rows, columns = (averaging(length - 1, window, x.dtype, x.device) for length in x.shape[2:])
        return rows.T @ (x @ columns)

    return Pooling(apply, transpose)


@lru_cache(maxsize=128)
def averaging(length: int, window: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Matrix of the means of windows along one axis, ``(length + 1, length)``.

    Products with it take a fourth to a twelfth of the time of torch's pooling on a processor.
    """
    with torch.inference_mode(False):
        first = torch.arange(length + 1).unsqueeze(1) - window // 2
        at = torch.arange(length)
        inside = (at >= first) & (at < first + window)
        return (inside.to(dtype) / window).to(device)


def channel_mean(x: Tensor) -> Tensor:
    """Mean of every channel and its two neighbours, zeros beside the first and the last, ``(B, D, h, w)``.

    >>> channel_mean(torch.tensor([3.0, 6.0, 0.0]).view(1, 3, 1, 1)).flatten()
    tensor([3., 3., 2.])
    """
    total = x.clone()
    total[:, 1:] += x[:, :-1]
    total[:, :-1] += x[:, 1:]
    return total.div_(3)


def distance(new: Tensor, old: Tensor, poolings: Sequence[Pooling]) -> Tensor:
    """Sum over the poolings of the norm of pooled ``new^2 - old^2``, per image ``(B,)``.

    The gradient reaches `new` alone. It is computed together with the value, so that one map is kept for it instead of
    one per pooling.
    """
    result: Tensor = _Distance.apply(new, old.detach(), tuple(poolings))
    return result


class _Distance(torch.autograd.Function):
    """See `distance`."""

    @staticmethod
    def forward(ctx: Any, new: Tensor, old: Tensor, poolings: Sequence[Pooling]) -> Tensor:
        """Norms of all poolings, and the gradient of their sum."""
        apart = (new**2 - old**2).contiguous()
        total, slope = apart.new_zeros(len(apart)), torch.zeros_like(apart)
        for pooling in poolings:
            pooled = pooling.apply(apart)
            norm = torch.linalg.vector_norm(pooled.flatten(1), dim=1)
            total += norm
            if ctx.needs_input_grad[0]:
                inverse = torch.where(norm > 0, 1 / norm, 0.0)
                slope += pooling.transpose(pooled * inverse.view(-1, 1, 1, 1))
        ctx.save_for_backward(slope.mul_(new).mul_(2))
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """The gradient of `new`."""
        return gradient.view(-1, 1, 1, 1) * ctx.saved_tensors[0], None, None
