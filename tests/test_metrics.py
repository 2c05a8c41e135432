"""Scores by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from barm.engine.scores import step_metrics
from barm.labels import Step
from barm.metrics import average_miou, class_iou, confusion_counts, forgetting, group_means


def test_iou_by_hand():
    counts = confusion_counts(torch.tensor([0, 0, 1, 1, 2]), torch.tensor([0, 1, 1, 255, 7]), 3)
    assert counts.tolist() == [[1, 0, 0], [1, 1, 0], [0, 0, 0]]
    np.testing.assert_allclose(class_iou(counts), [0.5, 0.5, 0], atol=1e-5)


@pytest.mark.parametrize("outside", [-1, -100, 3, 255])
def test_labels_outside_the_classes_are_left_out(outside):
    counts = confusion_counts(torch.tensor([0, 2, 1]), torch.tensor([0, outside, 1]), 3)
    assert counts.tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 0]]


def test_groups():
    assert group_means([0.2, 0.4, 0.9], 2) == pytest.approx({"all": 0.5, "old": 0.3, "new": 0.9})
    assert "new" not in group_means([0.2, 0.4], 2)


def test_forgetting_and_average():
    steps = [[0.8, 0.6], [0.9, 0.5, 0.7], [0.6, 0.55, 0.4, 0.3]]
    assert forgetting(steps) == pytest.approx(np.mean([0.9 - 0.6, 0.6 - 0.55, 0.7 - 0.4]))
    assert forgetting(steps[:1]) == 0
    assert forgetting([[0.5, 0.5], [0.9, 0.5, 0.7]]) == pytest.approx(-0.2), (
        "negative where a class improved at the last"
    )
    assert average_miou(steps) == pytest.approx(np.mean([0.7, 0.7, 0.4625]))


@pytest.mark.parametrize(
    ("labelled", "means"),
    [
        (None, {"old": 0.4, "new": None, "all": 0.4}),  # the last class stands in no image
        ({1, 2}, {"old": 0.4, "new": None, "all": 0.4}),
        ({1}, {"old": 0.4, "new": None, "all": None}),  # nothing says where the last class is
    ],
)
def test_a_class_without_pixels_is_in_no_mean(labelled, means):
    counts = [[2, 2, 0], [1, 2, 0], [0, 0, 0]]
    step = Step(1, ((1,), (2,)))
    found = step_metrics([[[2, 2], [1, 2]], counts], step, ("background", "a", "b"), labelled)
    assert found["class_iou"]["b"] is None
    assert {name: value and round(value, 6) for name, value in found["miou"].items()} == means
    assert found["forgetting"] == pytest.approx(0.0)


@pytest.mark.parametrize(("labelled", "score"), [(None, 0.0), ({1, 2}, 0.0), ({1}, None)])
def test_a_class_without_pixels_scores_0_in_the_published_evaluation(labelled, score):
    counts = [[2, 2, 0], [1, 2, 0], [0, 0, 0]]
    step = Step(1, ((1,), (2,)))
    found = step_metrics([counts], step, ("background", "a", "b"), labelled, absent="zero")
    assert found["class_iou"]["b"] == score
    assert found["miou"]["all"] == (None if score is None else pytest.approx(0.8 / 3))
