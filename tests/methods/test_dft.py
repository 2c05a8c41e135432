"""Decent fine-tuning: its weights, its labels, and what the previous network does to them."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from barm.batch import Batch
from barm.labels import Step
from barm.losses.balanced import balanced_binary_cross_entropy, class_counts, class_weights
from barm.losses.common import binary_cross_entropy
from barm.methods.dft import DFTConfig
from barm.models.heads import PlainOutput
from barm.models.segmenter import NetworkConfig
from barm.ops.upsampled import computed_by

GENERATOR = torch.Generator().manual_seed(3)


def tensors(channels: int = 4):
    logits = torch.randn(2, channels, 5, 6, generator=GENERATOR, dtype=torch.float64)
    label = torch.randint(0, channels, (2, 5, 6), generator=GENERATOR)
    label[0, 0] = 255
    return logits, label


def test_weights_multiply_the_own_pixels_alone():
    logits, label = tensors()
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    term = balanced_binary_cross_entropy(logits, label, positive=weights)
    hot = F.one_hot(label.masked_fill(label == 255, 0), 4).permute(0, 3, 1, 2).double()
    loss = F.binary_cross_entropy_with_logits(logits, hot, reduction="none", pos_weight=weights.view(1, -1, 1, 1))
    torch.testing.assert_close(term.total, loss.sum(1)[label != 255].sum())
    assert int(term.number) == 54


def test_without_weights_it_is_the_plain_loss():
    logits, label = tensors()
    ours, plain = (
        balanced_binary_cross_entropy(logits, label, positive=torch.ones(4)),
        binary_cross_entropy(logits, label),
    )
    torch.testing.assert_close(ours.total, plain.total)


@pytest.mark.parametrize(("balance", "most", "expected"), [(0, 10, [1, 1, 1]), (1, 10, [1, 9, 1]), (1, 4, [1, 4, 1])])
def test_class_weights(balance, most, expected):
    counts = class_counts(torch.tensor([[[0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 255]]]), 3)
    assert counts.tolist() == [9, 1, 0]
    assert class_weights(counts, balance, most).tolist() == expected


def test_the_weights_are_those_of_the_steps_images_and_are_restored():
    step = Step(1, ((1, 2), (3,)))
    method, other = (DFTConfig(balance=1.0).build(step, NetworkConfig()) for _ in range(2))
    label = torch.tensor([[[0, 0, 0], [3, 255, 0]]])
    old = torch.full((1, 3, 2, 3), -9.0)
    old[0, 2, 0, 0] = 9.0  # sure of class 2 there
    out = PlainOutput(old, old, old)
    method.calibrate(method.observe(out, Batch(torch.zeros(1, 3, 2, 3), label, {})))
    assert method.state_dict()["weights"].tolist() == [1, 1, 4, 4]
    other.load_state_dict(method.state_dict())
    assert torch.equal(other.state_dict()["weights"], method.state_dict()["weights"])


@pytest.mark.parametrize("way", ["plain", "strips"])
def test_confident_old_pixels_are_no_background(way):
    step = Step(1, ((1, 2), (3,)))
    method = DFTConfig(balance=0.0).build(step, NetworkConfig())
    logits, label = torch.zeros(1, 4, 2, 2), torch.tensor([[[0, 0], [3, 255]]])
    old = torch.full((1, 3, 2, 2), -9.0)
    old[0, 2, 0, 0] = 9.0  # sure of class 2 there
    batch = Batch(torch.zeros(1, 3, 2, 2), label, {})
    logits.requires_grad_()
    with computed_by(way):
        term = method.loss(PlainOutput(logits, logits, logits), PlainOutput(old, old, old), batch)["balanced_bce"]
        gradient = torch.autograd.grad(term.total, logits)[0]
    assert gradient[0, :, 0, 0].tolist() == [0.5, 0.5, -0.5, 0.5]
    assert gradient[0, :, 0, 1].tolist() == [-0.5, 0.5, 0.5, 0.5]
    assert gradient[0, :, 1, 0].tolist() == [0.5, 0.5, 0.5, -0.5]
    assert gradient[0, :, 1, 1].tolist() == [0, 0, 0, 0]
