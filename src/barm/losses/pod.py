"""Local POD: PLOP's distillation of feature maps.

Source: PLOP, Douillard et al., CVPR 2021, arXiv 2011.11390; spec/plop.md section 5.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from barm.batch import Term
from barm.losses.common import level_distances

SCALES = (1, 2, 4)


def local_pod(
    new: Sequence[Tensor],
    old: Sequence[Tensor],
    *,
    num_seen: int,
    num_new: int,
    weight: float = 0.01,
    weight_last: float = 0.0005,
    scales: Sequence[int] = SCALES,
) -> Term:
    r"""Distance between pooled profiles of squared feature maps, per level and image.

    .. math::
        \frac1L \sum_\ell w_\ell \sqrt{C / N} \, \frac1B \sum_n
        \lVert \Phi(\hat x_{\ell n}^2) - \Phi(x_{\ell n}^2) \rVert_2

    The norm itself, not its square; the gradient of a zero norm is 0 (spec/plop.md section 5.3, P8).

    Args:
        new: the student's maps from shallow to deep, ``(B, D, h, w)`` each. Where one has more channels than the
            teacher's it holds logits: the sum of the extra ones is added to channel 0 (P10).
        old: the teacher's.
        num_seen: C, channels of this step's model, background included.
        num_new: N, classes of this step.
        weight: of all levels but the last.
        weight_last: of the last level, whatever it is (P13).
        scales: cells per side.
    """

    def distance(x: Tensor, z: Tensor) -> Tensor:
        norm: Tensor = torch.linalg.vector_norm(embedding(x**2, scales) - embedding(z**2, scales), dim=1)
        return norm

    share = math.sqrt(num_seen / num_new) / len(old)
    return level_distances(new, old, distance, share=share, weight=weight, weight_last=weight_last)


def embedding(x: Tensor, scales: Sequence[int] = SCALES) -> Tensor:
    """Row and column profiles of the cells of every scale, ``(B, D, h, w)`` -> ``(B, P)``.

    A cell is a square of ``w // scale`` pixels, clipped to the map; remainders are left out and cells without a row
    skipped (spec/plop.md section 5.2; the official code fails on those, P14).
    """
    height, width = x.shape[2:]
    parts = []
    for scale in scales:
        cell = width // scale
        if cell == 0:
            continue
        for top in range(0, min(scale * cell, height), cell):
            for left in range(0, scale * cell, cell):
                region = x[:, :, top : top + cell, left : left + cell]
                parts += [region.mean(dim=3).flatten(1), region.mean(dim=2).flatten(1)]
    return torch.cat(parts, dim=1)
