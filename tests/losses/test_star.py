"""Losses of STAR on sizes and cases that no golden file shows."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from barm.batch import Term
from barm.losses.prototypes import (
    Statistics,
    counts_after,
    feature_sums,
    label_cells,
    missing_background,
    replay_plan,
    statistics,
)
from barm.losses.star import _resized, maintained_features, replayed_cross_entropy, similarity_to_prototypes


@pytest.mark.parametrize(("size", "grid"), [((48, 64), (3, 4)), ((513, 40), (33, 3)), ((20, 20), (20, 20))])
def test_masks_are_resized_bilinearly(size, grid):
    """Also where 16 does not divide the crop; without antialiasing (spec/star.md section 5.2)."""
    torch.manual_seed(0)
    label, like = torch.randint(0, 3, (2, *size)), torch.zeros(2, 4, *grid)
    expected = F.interpolate((label == 2).float().unsqueeze(1), size=grid, mode="bilinear", align_corners=False)
    assert torch.allclose(_resized(label, like, lambda picked: picked == 2), expected[:, 0], atol=1e-5)


def test_a_cells_label_is_that_of_its_middle():
    label = torch.arange(33 * 48).view(1, 33, 48)
    assert label_cells(label, (2, 3))[0].tolist() == [[row * 48 + column for column in (8, 24, 40)] for row in (8, 24)]


def test_features_without_an_old_region_cost_nothing():
    """spec/star.md Q4: the release has 0/0."""
    feature = torch.rand(2, 4, 3, 3, requires_grad=True)
    term = maintained_features(feature, torch.rand(2, 4, 3, 3), torch.zeros(2, 48, 48, dtype=torch.bool))
    term.value.backward()
    assert float(term.value.detach()) == 0
    assert not feature.grad.any()


def test_nothing_to_draw_and_nothing_to_repeat_is_the_labels_loss():
    """spec/star.md Q5: the release ends with an error."""
    labelled = Term(torch.tensor(12.0), torch.tensor(2 * 48 * 48))
    background = torch.zeros(2, 3, 3, dtype=torch.bool)
    found = replayed_cross_entropy(labelled, torch.randn(2, 1, 3, 3), background, torch.zeros(0, 1), repetition=0.7)
    assert float(found.value) == pytest.approx(float(labelled.value), rel=1e-6)


def test_a_class_in_no_cell_or_in_one():
    """spec/star.md section 3: nothing is known of the one, the other's norm does not vary (the release has NaN)."""
    feature, cells = torch.rand(1, 4, 1, 3), torch.tensor([[[1, 0, 255]]])
    found = statistics(feature_sums(feature, cells, first=1, number=2), torch.tensor([1, 0]), torch.zeros(0, 4))
    assert found.known.tolist() == [True, False]
    assert found.deviation.tolist() == [0, 0]
    assert found.mean[0] == pytest.approx(float(feature[0, :, 0, 0].norm()), rel=1e-6)
    assert all(torch.isfinite(part).all() for part in found)
    assert not found.spread[1].any()
    assert Statistics.empty(3, 4).known.tolist() == [False] * 3


def test_without_prototypes_nothing_is_near():
    feature = torch.rand(1, 4, 3, 3, requires_grad=True)
    label = torch.full((1, 48, 48), 2)
    assert float(similarity_to_prototypes(feature, label, torch.zeros(0, 4), first=2, number=1).value) == 0


def test_the_plans_of_both_settings():
    """spec/star.md sections 4.2 and 4.3 by hand: 1000 background cells before, 100 of a class; 400 and 40 now."""
    before, seen = torch.tensor([1000.0, 100.0, 9.0]), torch.tensor([400, 40, 20])
    options = {"num_new": 2, "per_epoch": 10}
    overlap = replay_plan(before, seen, overlap=True, **options)
    assert overlap.features == (6, 0)
    assert overlap.repetition == pytest.approx(1000 * 0.98 / 400 - 0.5)
    disjoint = replay_plan(before, seen, overlap=False, **options)
    assert disjoint.features == (10, 0)
    assert disjoint.repetition == pytest.approx(2.5)
    new = torch.tensor([7, 8])
    assert counts_after(before, seen, new, overlap=True).tolist() == [1180, 100, 9, 7, 8]
    assert counts_after(before, seen, new, overlap=False).tolist() == [1400, 140, 29, 7, 8]
    assert missing_background(before, num_new=200, overlap=True) == -1000
    assert replay_plan(before, torch.zeros(3), overlap=True, num_new=1, per_epoch=1).repetition == 0
