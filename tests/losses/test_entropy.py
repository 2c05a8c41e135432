"""Belief in the previous network by the entropy of its prediction."""

from __future__ import annotations

import pytest
import torch

from barm.losses.entropy import Belief, believed_labels


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def test_an_entropy_of_exactly_the_threshold_is_not_believed():
    """spec/plop.md section 3: u < tau, strictly; the pixel is then ignored."""
    seen = Belief(torch.tensor([[[1, 1, 1]]]), torch.tensor([[[0.25, 0.5, 0.75]]]))
    label = torch.zeros(1, 1, 3, dtype=torch.long)
    found = believed_labels(seen, label, torch.tensor([0.0, 0.5, 0.0]), num_old=2)
    assert found.label.tolist() == [[[1, 255, 255]]]
    assert float(found.factor) == pytest.approx(1 / 3, rel=1e-4)
