"""Losses and pseudo-labels of the labels against slow loops and against finite differences."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from barm.losses.balanced import balanced_binary_cross_entropy
from barm.losses.common import accepted, binary_cross_entropy, cross_entropy, focal_loss, pseudo_labels
from barm.ops.upsampled import _FORMS, ONE, computed_by, map_pixels


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


def test_all_pixels_ignored_is_zero():
    logits = torch.randn(1, 3, 2, 2, requires_grad=True)
    value = binary_cross_entropy(logits, torch.full((1, 2, 2), 255)).value
    value.backward()
    assert float(value.detach()) == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_pseudo_labels_compare_logits():
    """spec/barm.md section 7: the sigmoid of both logits is 1 in single precision, the largest logit decides."""
    logits = torch.tensor([0.0, 20.0, 30.0]).view(1, 3, 1, 1)
    assert torch.sigmoid(logits).flatten().tolist() == [0.5, 1.0, 1.0]
    assert pseudo_labels(logits, torch.zeros(1, 1, 1, dtype=torch.long), threshold=0.7).item() == 2


@pytest.mark.parametrize("path", ["plain", "strips"])
@pytest.mark.parametrize("softmax", [False, True])
def test_pseudo_labels_with_a_threshold_of_1(path, softmax):
    logits = torch.tensor([-200.0, 200.0]).view(1, 2, 1, 1).expand(1, 2, 4, 4)
    label = torch.zeros(1, 16, 16, dtype=torch.long)
    with computed_by(path):
        for threshold, expected in ((1.0, 0), (0.999, 1)):
            found = map_pixels(pseudo_labels, logits, label, threshold=threshold, softmax=softmax)
            assert found.unique().tolist() == [expected]


@pytest.mark.parametrize("positive", [None, torch.tensor([1.0, 3.0])], ids=["alike", "balanced"])
def test_an_overflow_where_no_label_is_has_no_effect(positive):
    logits = torch.tensor([[[[0.5, torch.inf]], [[-1.0, torch.inf]]]])
    label = torch.tensor([[[1, 255]]])
    options = {} if positive is None else {"positive": positive}
    formula = binary_cross_entropy if positive is None else balanced_binary_cross_entropy
    expected = formula(logits[..., :1], label[..., :1], **options).total
    torch.testing.assert_close(formula(logits, label, **options).total, expected)
    found = _FORMS[formula].analytic(logits, [label], True, **options)
    torch.testing.assert_close(found.terms[ONE].total, expected)
    assert torch.isfinite(found.gradients[0]).all()
    assert not found.gradients[0][..., 1].any()
