"""A classifier by regression on a random expansion of the features. Source: spec/segacil.md section 2."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from barm.models.heads import PlainOutput, classifier, conv_block
from barm.models.neck import Neck

UNITS = 1024  # of the expansion at once, so that memory does not grow with its width


def projection_bound(features: int, kernel: int = 1) -> float:
    """The largest absolute value of a projection's entries.

    >>> projection_bound(256)
    0.0625
    """
    return 1 / math.sqrt(features * kernel**2)


def draw_projection(width: int, features: int, kernel: int = 1, dtype: torch.dtype = torch.float32) -> Tensor:
    """Draw a projection, ``(E, D, k, k)``: uniform within `projection_bound`, from torch's generator.

    Args:
        width: E.
        features: D.
        kernel: k, side of the window that an entry of the result sees.
        dtype: of the result.
    """
    bound = projection_bound(features, kernel)
    return torch.empty(width, features, kernel, kernel, dtype=dtype).uniform_(-bound, bound)


def regression_scores(features: Tensor, projection: Tensor, weight: Tensor) -> Tensor:
    """Scores ``W^T max(P f, 0)``, ``(N, C, h, w)``, in the projection's type.

    Args:
        features: f, ``(N, D, h, w)``.
        projection: P, ``(E, D, k, k)``.
        weight: W, ``(C, E, 1, 1)``.
    """
    wide, pad = features.to(projection.dtype), projection.shape[2] // 2
    parts = zip(torch.split(projection, UNITS), torch.split(weight, UNITS, dim=1), strict=True)
    first, *rest = [F.conv2d(F.conv2d(wide, p, padding=pad).relu(), w) for p, w in parts]
    for part in rest:
        first = first + part
    return first


class Regression(nn.Module):
    """Fixed random projection, ReLU, and a linear map that is solved for, not trained.

    Its tensors stay float32 in a network of lower precision (`barm.models.frozen`): a solution's weights cancel each
    other.

    Args:
        features: D.
        width: E.
        channels: C.
        kernel: side of the window that the projection sees.
    """

    projection: Tensor
    weight: Tensor

    def __init__(self, features: int, width: int, channels: int, kernel: int = 1) -> None:
        super().__init__()
        self.register_buffer("projection", draw_projection(width, features, kernel))
        self.register_buffer("weight", torch.zeros(channels, width, 1, 1))

    def forward(self, features: Tensor) -> Tensor:
        """``(N, D, h, w)`` -> scores ``(N, C, h, w)``."""
        return regression_scores(features, self.projection, self.weight)


class RegressionHead(nn.Module):
    """Branches as other heads have them, the classifier that trains at step 0, and the regression.

    In training it classifies by the former, in evaluation by the latter.

    Args:
        aspp: turns the backbone's feature maps into the common feature.
        channels: D, of every branch.
        group_sizes: classes per step without background.
        width: E, of the expansion.
        ears: branches beside `head_pre`, of a grouped network that goes on with this head.
    """

    def __init__(self, aspp: Neck, channels: int, group_sizes: Sequence[int], *, width: int, ears: int = 0) -> None:
        super().__init__()
        self.aspp = aspp
        self.head_pre: nn.Module = conv_block(aspp.width, channels) if aspp.refine else nn.Identity()
        self.ear = nn.ModuleList(conv_block(aspp.width, channels) for _ in range(ears))
        trained = [1 + group_sizes[0]] if len(group_sizes) == 1 else []
        self.head = nn.ModuleList(classifier(aspp, channels, size) for size in trained)
        self.regression = Regression((1 + ears) * channels, width, 1 + sum(group_sizes), aspp.kernel)

    def forward(self, features: Sequence[Tensor]) -> PlainOutput:
        """Compute logits from backbone features ``(N, B, h, w)``; `branch` holds all branches side by side."""
        common = self.aspp(features)
        blocks: list[Any] = [self.head_pre, *self.ear]
        branch = blocks[0](common) if len(blocks) == 1 else torch.cat([block(common) for block in blocks], dim=1)
        logits = self.head[0](branch) if self.training and len(self.head) else self.regression(branch)
        return PlainOutput(logits, features[-1], branch)
