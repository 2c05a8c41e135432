"""Ridge regression of labels on randomly expanded features, from sums that can be added up in any order.

Shapes as in `barm.batch`; E is the expanded width, D that of the features, C the channels with background. Everything
is float64 but the features. Source: spec/segacil.md sections 1, 4 to 6.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from barm.errors import UserError
from barm.labels import IGNORE
from barm.losses.common import accepted

Place = Literal["corner", "centre"]


def expand(features: Tensor, projection: Tensor) -> Tensor:
    """Expand features: ``max(P f, 0)`` at every cell, without a bias.

    Args:
        features: ``(N, D, h, w)`` float.
        projection: P, ``(E, D)`` or ``(E, D, k, k)``; the result has its type.

    Returns:
        ``(N, h w, E)``, cells row by row.

    Source: spec/segacil.md section 2.

    >>> expand(torch.tensor([1.0, 2.0]).view(1, 2, 1, 1), torch.tensor([[1.0, 1.0], [1.0, -1.0]]))
    tensor([[[3., 0.]]])
    """
    features = features.to(projection.dtype)
    if projection.dim() == 4 and projection.shape[2] > 1:
        wide = F.conv2d(features, projection, padding=projection.shape[2] // 2).flatten(2).transpose(1, 2)
    else:
        wide = features.flatten(2).transpose(1, 2) @ projection.flatten(1).T
    return wide.relu_()


def labels_on_grid(label: Tensor, size: tuple[int, int], place: Place = "corner") -> Tensor:
    """Take every cell's label from one pixel, ``(N, H, W)`` -> ``(N, h, w)`` int64.

    Args:
        label: channels and `IGNORE`, of any integer type.
        size: ``(h, w)``.
        place: of that pixel: the cell's upper left `corner` (``floor(i H / h)``, as published) or its `centre`.

    Source: spec/segacil.md section 5, Q6.

    >>> labels_on_grid(torch.arange(16).view(1, 4, 4), (2, 2))
    tensor([[[ 0,  2],
             [ 8, 10]]])
    """
    mode = "nearest" if place == "corner" else "nearest-exact"
    return F.interpolate(label.unsqueeze(1).to(torch.float32), size=size, mode=mode).squeeze(1).long()


def add_rows(auto: Tensor, cross: Tensor, expanded: Tensor, label: Tensor) -> None:
    """Add cells to both sums in place: ``A += sum phi phi^T``, ``B += sum phi y^T`` with one-hot y.

    Background is a class like any other; cells whose label is `IGNORE` do not count.

    Args:
        auto: A, ``(E, E)`` float64.
        cross: B, ``(E, C)`` float64.
        expanded: phi, ``(..., E)`` float64.
        label: channels below C or `IGNORE`, ``(...)`` of any integer type.

    Source: spec/segacil.md section 5, steps 3 to 6.
    """
    rows, label = expanded.reshape(-1, expanded.shape[-1]), label.reshape(-1).long()
    counted = label != IGNORE
    if not bool(counted.all()):
        rows, label = rows[counted], label[counted]
    auto.addmm_(rows.T, rows)
    cross.addmm_(rows.T, F.one_hot(label, cross.shape[-1]).to(rows.dtype))


def add_rows_by_class(autos: Tensor, cross: Tensor, counts: Tensor, expanded: Tensor, label: Tensor) -> None:
    """Add cells to sums per class in place, as `balanced_weight` needs them.

    Args:
        autos: ``(C, E, E)`` float64.
        cross: ``(E, C)`` float64.
        counts: cells per class, ``(C,)`` int64.
        expanded: ``(..., E)`` float64.
        label: channels below C or `IGNORE`, ``(...)``.

    Source: spec/segacil.md Q8.
    """
    rows, label = expanded.reshape(-1, expanded.shape[-1]), label.reshape(-1).long()
    for channel in sorted(set(label[label != IGNORE].tolist())):
        own = rows[label == channel]
        autos[channel].addmm_(own.T, own)
        cross[:, channel] += own.sum(0)
        counts[channel] += len(own)


def ridge_weight(auto: Tensor, cross: Tensor, gamma: float) -> Tensor:
    """The regression's weight ``(A + gamma I)^-1 B``, ``(E, C)``, by Cholesky's decomposition.

    Args:
        auto: A without gamma, ``(E, E)`` float64.
        cross: B, ``(E, C)`` float64.
        gamma: strength of the ridge.

    Raises:
        UserError: if the sums are not finite, or gamma is too small for them.

    Source: spec/segacil.md section 5.

    >>> ridge_weight(torch.eye(2).double(), torch.ones(2, 1).double(), 1.0)
    tensor([[0.5000],
            [0.5000]], dtype=torch.float64)
    """
    return torch.cholesky_solve(cross, _factor(auto, gamma))


def inverse_autocorrelation(auto: Tensor, gamma: float) -> Tensor:
    """``(A + gamma I)^-1``, ``(E, E)``, which the releases keep instead of A. Arguments as for `ridge_weight`."""
    inverse: Tensor = torch.cholesky_inverse(_factor(auto, gamma))
    return inverse


def _factor(auto: Tensor, gamma: float) -> Tensor:
    lifted = auto.clone()
    lifted.diagonal().add_(gamma)
    factor: Tensor
    factor, failed = torch.linalg.cholesky_ex(lifted)
    if bool(failed) or not bool(factor.diagonal().isfinite().all()):
        raise UserError(
            f"the regression has no solution with method.gamma={gamma:g}: expected finite features and a gamma that "
            "is not lost beside them; give a larger one"
        )
    return factor


def balanced_weight(autos: Tensor, cross: Tensor, counts: Tensor, gamma: float) -> Tensor:
    """The weight with every class counting alike, ``(E, C)``; a class without a cell has zeros.

    ``(gamma I + sum_c A_c / n_c)^-1 [b_c / n_c]`` from the sums of `add_rows_by_class`; errors as in `ridge_weight`.

    Source: spec/segacil.md Q8.
    """
    share = 1 / counts.clamp(min=1).to(cross.dtype)
    return ridge_weight(torch.einsum("c,cij->ij", share, autos), cross * share, gamma)


def widened(cross: Tensor, columns: int, *, auto: Tensor | None = None, start: Tensor | None = None) -> Tensor:
    """Append columns for new classes to B, ``(E, C)`` -> ``(E, columns)``.

    Args:
        cross: B so far.
        columns: of the result.
        auto: A so far with gamma on its diagonal, for `start`.
        start: weights at which new columns start, ``(E, columns - C)``; zeros by default. Others act for ever as a
            prior as strong as all cells so far (release B; spec/segacil.md section 5, Q1).
    """
    new = columns - cross.shape[1]
    if auto is None or start is None:
        return F.pad(cross, (0, new))
    return torch.cat([cross, auto @ start.to(cross.dtype)], dim=1)


def believed(probability: Tensor, label: Tensor, *, threshold: float) -> Tensor:
    """Replace background labels by the most probable class where that is at least `threshold`, ``(N, H, W)`` int64.

    The probability is the sigmoid of a regression's score, which is 0 to 1 itself: a threshold of 0.7 asks for a score
    of 0.847, one of 0.9 for 2.197, which practically none has.

    Args:
        probability: at the labels' size, ``(N, C, H, W)``.
        label: channels and `IGNORE`, ``(N, H, W)``.
        threshold: on the probability; 1 accepts nothing.

    Source: spec/segacil.md section 6, Q3.
    """
    best, channel = probability.max(dim=1)
    return accepted(best, channel, label, threshold=threshold, first=1)
