"""Pooled cubes against sums written out, and their gradient against finite differences."""

from __future__ import annotations

import math

import pytest
import torch

from barm.losses.cube import Pooling, channel_cube, channel_mean, distance, spatial_cube, window_mean


@pytest.mark.parametrize("window", [2, 4, 24])
@pytest.mark.parametrize("size", [(1, 1), (2, 5), (7, 3)])
def test_windows_written_out(window, size):
    x = torch.randn(1, 2, *size, dtype=torch.float64)
    found, half = window_mean(window).apply(x), window // 2
    assert found.shape == (1, 2, size[0] + 1, size[1] + 1)
    for i in range(size[0] + 1):
        for j in range(size[1] + 1):
            part = x[:, :, max(i - half, 0) : i + half, max(j - half, 0) : j + half]
            torch.testing.assert_close(found[:, :, i, j], part.sum((2, 3)) / window**2)


@pytest.mark.parametrize("pooling", [window_mean(4), window_mean(24), Pooling(channel_mean, channel_mean)])
def test_transposes(pooling):
    x = torch.randn(2, 3, 5, 7, dtype=torch.float64)
    pooled = pooling.apply(x)
    y = torch.randn_like(pooled)
    torch.testing.assert_close((pooled * y).sum(), (x * pooling.transpose(y)).sum())


def test_gradient():
    new, old = (torch.randn(2, 3, 4, 5, dtype=torch.float64) for _ in range(2))
    poolings = [window_mean(4), Pooling(channel_mean, channel_mean)]
    assert torch.autograd.gradcheck(lambda x: distance(x, old, poolings), new.requires_grad_())


def test_equal_maps_have_no_gradient():
    new = torch.randn(2, 3, 4, 4, requires_grad=True)
    spatial_cube([new, new], [new.detach()] * 2, num_seen=3, num_new=1).total.backward()
    assert new.grad is not None
    assert float(new.grad.abs().max()) == 0


def test_weights_and_counts():
    """One level that differs: its weight, the schedule, the number of levels; the count is that of images."""
    old = [torch.zeros(3, 2, 1, 1)] * 2
    new = [torch.zeros(3, 2, 1, 1), torch.tensor([3.0, 0.0]).view(1, 2, 1, 1).expand(3, -1, -1, -1)]
    term = channel_cube(new, old, num_seen=8, num_new=2, weight=7.0, weight_last=0.5)
    assert int(term.number) == 3
    assert float(term.value) == pytest.approx(0.5 * 2 / 2 * math.hypot(3, 3))


def test_extra_logits_join_the_first():
    old = torch.randn(2, 3, 4, 4)
    new = torch.cat([old, torch.zeros(2, 2, 4, 4)], dim=1)
    new[:, 0] -= 1
    new[:, 3] += 0.25
    new[:, 4] += 0.75
    assert float(spatial_cube([new], [old], num_seen=5, num_new=2).value) == pytest.approx(0, abs=1e-9)
