"""Losses against slow loops and against finite differences."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from barm.batch import Term
from barm.losses.background import (
    background_distillation,
    group_distillation,
    residual_cross_entropy,
    residual_triplet,
    step_masks,
)
from barm.losses.common import accepted, binary_cross_entropy, cross_entropy, focal_loss, pseudo_labels
from barm.losses.entropy import Belief, believed_labels
from barm.ops.upsampled import computed_by, map_pixels


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_binary_cross_entropy_by_hand():
    logits, label = torch.randn(2, 4, 3, 5), torch.randint(0, 4, (2, 3, 5))
    label[0, 0, :2] = 255
    total, valid = 0.0, 0
    for n in range(2):
        for y in range(3):
            for x in range(5):
                if label[n, y, x] == 255:
                    continue
                valid += 1
                for c in range(4):
                    p = sigmoid(float(logits[n, c, y, x]))
                    total -= math.log(p if c == label[n, y, x] else 1 - p)
    term = binary_cross_entropy(logits, label)
    assert int(term.number) == valid
    assert float(term.value) == pytest.approx(total / valid, rel=1e-5)


def test_cross_entropy_and_focal():
    logits, label = torch.randn(1, 3, 2, 4), torch.tensor([[[0, 1, 2, 255], [1, 1, 255, 0]]])
    expected = torch.nn.functional.cross_entropy(logits, label, ignore_index=255)
    assert float(cross_entropy(logits, label).value) == pytest.approx(float(expected))
    assert float(focal_loss(logits, label).value) == pytest.approx(float(expected) * 6 / 8)  # all pixels: Q18


def test_pseudo_labels_by_hand():
    logits = torch.randn(2, 3, 4, 4) * 3
    label = torch.tensor([0, 3, 255, 0]).repeat(2, 4, 1)
    expected = label.clone()
    for n in range(2):
        for y in range(4):
            for x in range(4):
                scores = [sigmoid(float(v)) for v in logits[n, :, y, x]]
                best = scores.index(max(scores))
                if label[n, y, x] == 0 and best > 0 and scores[best] >= 0.7:
                    expected[n, y, x] = best
    assert torch.equal(pseudo_labels(logits, label, threshold=0.7), expected)
    assert (expected != label).any()
    soft = pseudo_labels(logits, label, threshold=0.9, softmax=True)
    p = logits.softmax(1).max(1)
    changed = (label == 0) & (p.indices > 0) & (p.values >= 0.9)
    assert torch.equal(soft, torch.where(changed, p.indices, label))


@pytest.mark.parametrize("path", ["plain", "strips"])
def test_a_score_of_exactly_the_threshold_is_accepted(path):
    """spec/barm.md section 3, spec/ssul.md section 6: s >= tau. The sigmoid of 0 is a half, exactly."""
    logits = torch.tensor([-9.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 4, 4)
    label = torch.zeros(1, 4, 4, dtype=torch.long)
    above = float(np.nextafter(np.float32(0.5), np.float32(1)))
    with computed_by(path):
        assert map_pixels(pseudo_labels, logits, label, threshold=0.5).unique().tolist() == [1]
        assert map_pixels(pseudo_labels, logits, label, threshold=above).unique().tolist() == [0]
    score, channel = torch.tensor([0.7, 0.9]), torch.tensor([2, 2])
    for threshold in (0.7, 0.9):
        found = accepted(score, channel, torch.zeros(2, dtype=torch.long), threshold=threshold, first=1)
        assert found.tolist() == [2 if float(np.float32(s)) >= np.float32(threshold) else 0 for s in (0.7, 0.9)]


def test_an_entropy_of_exactly_the_threshold_is_not_believed():
    """spec/plop.md section 3: u < tau, strictly; the pixel is then ignored."""
    seen = Belief(torch.tensor([[[1, 1, 1]]]), torch.tensor([[[0.25, 0.5, 0.75]]]))
    label = torch.zeros(1, 1, 3, dtype=torch.long)
    found = believed_labels(seen, label, torch.tensor([0.0, 0.5, 0.0]), num_old=2)
    assert found.label.tolist() == [[[1, 255, 255]]]
    assert float(found.factor) == pytest.approx(1 / 3, rel=1e-4)


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


def test_all_pixels_ignored_is_zero():
    logits = torch.randn(1, 3, 2, 2, requires_grad=True)
    value = binary_cross_entropy(logits, torch.full((1, 2, 2), 255)).value
    value.backward()
    assert float(value.detach()) == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_gradients_in_float64():
    logits = torch.randn(1, 3, 2, 3, dtype=torch.float64, requires_grad=True)
    label = torch.tensor([[[0, 1, 255], [2, 2, 0]]])
    assert torch.autograd.gradcheck(lambda x: binary_cross_entropy(x, label).value, (logits,))
    a = torch.randn(1, 2, 3, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[[1, 0, 1], [1, 1, 0]]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: residual_triplet(x, mask).value, (a,))
    assert torch.autograd.gradcheck(lambda x: residual_cross_entropy(x, mask).value, (a,))


def test_a_term_divides_by_at_least_one():
    assert float(Term(torch.tensor(3.0), torch.tensor(0)).value) == 3
    assert float(Term(torch.tensor(3.0), torch.tensor(2), 4.0).value) == 6
