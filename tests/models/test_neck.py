"""Pooling in evaluation mode."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from barm.models.neck import AddedPoolNeck


def test_pooling_of_a_window_in_evaluation():
    """spec/mib.md section 7: up to 32 x 32 the window is the whole map; then it slides, the border is repeated."""
    neck = AddedPoolNeck([4], (1, 2, 3), 4, 0.0).eval()
    small, large = torch.randn(1, 4, 32, 20), torch.randn(1, 4, 40, 33)
    assert torch.equal(neck._pool(small), small.mean((2, 3), keepdim=True))
    pooled = neck._pool(large)
    assert pooled.shape == large.shape
    inner = F.avg_pool2d(large, 32, stride=1)
    assert torch.equal(pooled[..., 15:24, 15:17], inner)
    assert torch.equal(pooled[..., 0, 0], inner[..., 0, 0])
    assert torch.equal(pooled[..., -1, -1], inner[..., -1, -1])
    assert torch.equal(neck.train()._pool(large), large.mean((2, 3), keepdim=True))
