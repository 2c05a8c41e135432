"""Losses of BARM against slow loops and against finite differences."""

from __future__ import annotations

import math

import pytest
import torch

from barm.losses.background import (
    background_distillation,
    group_distillation,
    old_classes_absent,
    residual_cross_entropy,
    residual_triplet,
    step_masks,
)
from barm.losses.common import binary_cross_entropy


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_step_masks():
    label = torch.zeros(1, 4, 4, dtype=torch.long)
    label[0, :2, :2], label[0, 2:, 2:] = 7, 255
    positive, negative = step_masks(label, (2, 2))
    assert positive.tolist() == [[[1, 0], [0, 0]]]
    assert negative.tolist() == [[[0, 1], [1, 0]]]


def test_residual_losses_by_hand():
    a, mask = torch.randn(1, 3, 3), (torch.rand(1, 3, 3) < 0.5).float()
    inside = [float(v) for v, m in zip(a.flatten(), mask.flatten(), strict=True) if m]
    bce = sum(-math.log(1 - sigmoid(v)) for v in inside) / len(inside)
    triplet = sum(max((sigmoid(v) - 1) ** 2 - sigmoid(v) ** 2, 0) for v in inside) / len(inside)
    assert float(residual_cross_entropy(a, mask, weight=2).value) == pytest.approx(2 * bce, rel=1e-5)
    assert float(residual_triplet(a, mask, weight=5).value) == pytest.approx(5 * triplet, rel=1e-5)


def test_distillation_by_hand():
    new, old = [torch.randn(2, 3, 2, 2) for _ in range(3)], [torch.randn(2, 3, 2, 2) for _ in range(2)]
    wide, wide_old = torch.cat(new, dim=1), torch.cat(old, dim=1)
    mask = torch.tensor([[[1.0, 0.0], [1.0, 1.0]], [[0.0, 0.0], [1.0, 0.0]]])
    features = sum(float((((f - g) * mask[:, None]) ** 2).mean()) for f, g in zip(new, old, strict=False))
    assert float(background_distillation(wide, wide_old, mask, num_branches=2, weight=1).value) == pytest.approx(
        features, rel=1e-5
    )
    groups = 0.0
    for x, z in zip(new, old, strict=False):
        q, p = torch.sigmoid(z), torch.sigmoid(x)
        groups += float(-(q * p.log() + (1 - q) * (1 - p).log()).mean(dim=(0, 2, 3)).sum())
    assert float(group_distillation(new, old).value) == pytest.approx(groups, rel=1e-5)


@pytest.mark.parametrize("loss", [residual_cross_entropy, residual_triplet])
def test_nothing_to_average_over_is_zero(loss):
    a = torch.randn(1, 2, 2, requires_grad=True)
    value = loss(a, torch.zeros(1, 2, 2)).value
    value.backward()
    assert float(value.detach()) == 0
    assert torch.equal(a.grad, torch.zeros_like(a))


def test_pixels_that_do_not_count_may_overflow():
    """0 times infinity is no number: a mask leaves out, it does not multiply. The square of 300 overflows in fp16."""
    new = torch.full((1, 2, 1, 2), 300.0, dtype=torch.float16)
    new[..., 1] = 1.0
    new.requires_grad_()
    term = background_distillation(new, torch.zeros_like(new), torch.tensor([[[0.0, 1.0]]]), num_branches=1)
    term.total.backward()
    assert float(term.total.detach()) == 2
    assert new.grad.flatten().tolist() == [0, 2, 0, 2]

    residual = torch.tensor([[[math.inf, 0.0]]], requires_grad=True)
    total = residual_cross_entropy(residual, torch.tensor([[[0.0, 1.0]]])).total
    total.backward()
    assert float(total.detach()) == pytest.approx(math.log(2))
    assert residual.grad.flatten().tolist() == [0, 0.5]


def test_gradients_in_float64():
    logits = torch.randn(1, 3, 2, 3, dtype=torch.float64, requires_grad=True)
    label = torch.tensor([[[0, 1, 255], [2, 2, 0]]])
    assert torch.autograd.gradcheck(lambda x: binary_cross_entropy(x, label).value, (logits,))
    a = torch.randn(1, 2, 3, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[[1, 0, 1], [1, 1, 0]]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: residual_triplet(x, mask).value, (a,))
    assert torch.autograd.gradcheck(lambda x: residual_cross_entropy(x, mask).value, (a,))


def test_where_old_classes_yield_their_heads_alone_are_not_distilled():
    generator = torch.Generator().manual_seed(0)
    new = [torch.randn(1, size, 2, 2, generator=generator).requires_grad_() for size in (3, 2, 4)]
    old = [torch.randn(1, size, 2, 2, generator=generator) for size in (3, 2)]
    positive = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
    plain = torch.autograd.grad(group_distillation(new, old).value, new[:2])
    found = torch.autograd.grad(group_distillation(new, old, without=positive).value, new[:2])
    for one, other in zip(plain, found, strict=True):
        assert other[0, 1:, 0, 0].tolist() == [0.0] * (one.shape[1] - 1)
        kept = torch.ones_like(one, dtype=torch.bool)
        kept[0, 1:, 0, 0] = False
        assert torch.equal(one[kept], other[kept])


def test_old_classes_are_absent_where_a_new_one_is_labelled():
    heads = [torch.tensor([9.0, 1.0, -2.0]), torch.tensor([9.0, 3.0]), torch.tensor([9.0, 9.0])]
    shaped = [head.view(1, -1, 1, 1).expand(1, -1, 2, 2) for head in heads]
    positive = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    term = old_classes_absent(shaped, positive, weight=2.0)
    expected = 2 * sum(math.log1p(math.exp(x)) for x in (1.0, -2.0, 3.0))
    assert float(term.value) == pytest.approx(expected, rel=1e-6)
    assert float(old_classes_absent(shaped, 0 * positive, weight=2.0).value) == 0.0
