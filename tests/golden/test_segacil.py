"""SegACIL against numbers of the official implementations (golden/segacil)."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from arrays import named, tensors
from torch import Tensor

from barm.batch import Batch
from barm.labels import Step
from barm.losses.ridge import (
    add_rows,
    add_rows_by_class,
    balanced_weight,
    believed,
    expand,
    inverse_autocorrelation,
    labels_on_grid,
    ridge_weight,
    widened,
)
from barm.methods.segacil import SegACILConfig
from barm.models.heads import PlainOutput
from barm.models.regression import draw_projection, projection_bound, regression_scores
from barm.models.segmenter import NetworkConfig
from barm.ops.upsampled import map_pixels

pytestmark = pytest.mark.usefixtures("both_ways")

files = partial(named, "segacil", "_[0-9]")


def assert_close(actual: Tensor, expected, relative=1e-8) -> None:
    """Within a share of the largest value."""
    expected = torch.as_tensor(expected)
    assert actual.shape == expected.shape
    torch.testing.assert_close(actual, expected, rtol=0, atol=relative * float(expected.abs().max()) + 1e-12)


def method(classes: int, **settings):
    """SegACIL at a step with this many channels, which ends with one class."""
    groups = (tuple(range(1, classes - 1)), (classes - 1,)) if classes > 2 else ((1,),)
    return SegACILConfig(**settings).build(Step(len(groups) - 1, groups), NetworkConfig(pretrained=False))


def zeros(width: int, channels: int) -> tuple[Tensor, Tensor]:
    return torch.zeros(width, width).double(), torch.zeros(width, channels).double()


@pytest.mark.parametrize("file", files("expand"))
def test_expansion(file, golden):
    g = golden(f"segacil/{file}.npz")
    features, projection, expected = tensors(g, "features", "projection", "expected_expanded")
    assert_close(expand(features, projection), expected)
    assert_close(expand(features, projection[:, :, None, None]), expected)
    bound = projection_bound(features.shape[1])
    assert bound == pytest.approx(float(g["expected_init_bound"]), rel=1e-6)
    drawn = draw_projection(2000, features.shape[1]).abs().max()
    assert 0.99 * bound < float(drawn) <= bound


@pytest.mark.parametrize("file", files("label_resize"))
def test_labels_on_the_grid(file, golden):
    g = golden(f"segacil/{file}.npz")
    label, expected = tensors(g, "labels", "expected_labels")
    assert torch.equal(labels_on_grid(label, (int(g["height"]), int(g["width"]))), expected)


@pytest.mark.parametrize("file", files("rls"))
def test_steps_equal_one_regression(file, golden):
    g = golden(f"segacil/{file}.npz")
    expanded, label = tensors(g, "expanded", "labels")
    gamma, channels = float(g["gamma"]), [g[k].shape[1] for k in sorted(g) if "after_step" in k]
    auto, cross = zeros(expanded.shape[-1], 0)
    for step, number in enumerate(channels):
        cross = widened(cross, number)
        for rows, own in zip(expanded[step], label[step], strict=True):
            add_rows(auto, cross, rows, own)
        assert_close(ridge_weight(auto, cross, gamma), g[f"expected_weight_after_step_{step}"])
    assert_close(inverse_autocorrelation(auto, gamma), g["expected_inverse_autocorrelation"])
    assert_close(ridge_weight(auto, cross, gamma), g["expected_joint_ridge_weight"])
    joint, labels = zeros(*cross.shape)
    add_rows(joint, labels, expanded.flip(0), label.flip(0))
    assert_close(ridge_weight(joint, labels, gamma), g["expected_joint_ridge_weight"])


def test_random_columns_stay_for_ever(golden):
    """Release B's columns (spec/segacil.md Q1), which nothing here uses."""
    g = golden("segacil/rls_random_columns_1.npz")
    expanded, label, tail = tensors(g, "expanded", "labels", "random_tail_unscaled")
    gamma, start = float(g["gamma"]), float(g["tail_scale"]) * tail.double()
    auto, cross = zeros(expanded.shape[-1], 0)
    for step in range(len(expanded)):
        for rows, own in zip(expanded[step], label[step], strict=True):
            number = max(cross.shape[1], 1 + int(own[own != 255].max()))
            lifted = auto + gamma * torch.eye(len(auto))
            cross = widened(cross, number, auto=lifted, start=start[:, cross.shape[1] : number])
            add_rows(auto, cross, rows, own)
        assert_close(ridge_weight(auto, cross, gamma), g[f"expected_weight_after_step_{step}"], 1e-7)
    assert_close(inverse_autocorrelation(auto, gamma), g["expected_inverse_autocorrelation"])
    joint = torch.from_numpy(g["expected_joint_ridge_weight"])
    assert not torch.allclose(ridge_weight(auto, cross, gamma), joint, rtol=0, atol=1e-6)


@pytest.mark.parametrize("file", files("fit"))
def test_from_features_to_weights(file, golden):
    g = golden(f"segacil/{file}.npz")
    features, label, projection, expected = tensors(g, "features", "labels", "projection", "expected_weight")
    gamma, (width, channels) = float(g["gamma"]), expected.shape
    run = method(channels, width=width, gamma=gamma)
    model = torch.nn.Module()
    model.classifier = torch.nn.Module()
    model.classifier.regression = torch.nn.Module()
    model.classifier.regression.projection = projection[:, :, None, None]
    model.classifier.regression.weight = torch.zeros(channels, width, 1, 1).double()
    run.finish(model, None)
    sums = run.start_sums(torch.device("cpu"))
    for some, own in zip(features, label, strict=True):
        run.gather(PlainOutput(some, some, some), Batch(some, own.long(), {}), sums)
    run.gathered(model, sums)
    assert_close(model.classifier.regression.weight[:, :, 0, 0].T, expected)
    assert_close(inverse_autocorrelation(run.hand_on()["auto"], gamma), g["expected_inverse_autocorrelation"])


@pytest.mark.parametrize("file", files("predict"))
def test_scores_and_prediction(file, golden):
    g = golden(f"segacil/{file}.npz")
    features, projection, weight = tensors(g, "features", "projection", "weight")
    scores = regression_scores(features, projection[:, :, None, None], weight.T[:, :, None, None])
    assert_close(scores.permute(0, 2, 3, 1), g["expected_scores"])
    size = (int(g["height"]), int(g["width"]))
    found = method(weight.shape[1]).predict(PlainOutput(scores, features, features), size)
    np.testing.assert_array_equal(found, g["expected_prediction"])


@pytest.mark.parametrize("file", files("pseudo"))
def test_pseudo_labels(file, golden):
    g = golden(f"segacil/{file}.npz")
    scores, label, expected = tensors(g, "scores", "labels", "expected_labels")
    scores, threshold = scores.permute(0, 3, 1, 2), float(g["threshold"])
    found = map_pixels(believed, torch.sigmoid(scores), label.long(), threshold=threshold)
    assert torch.equal(found, expected)
    run = method(scores.shape[1] + 1, pseudo=True, pseudo_threshold=threshold)
    new = torch.full_like(scores[:, :1], 9.0)  # the new class's channel does not count
    out = PlainOutput(torch.cat([scores, new], 1), scores, scores)
    assert torch.equal(run.labels(out, Batch(scores, label.long(), {})), expected)


@pytest.mark.parametrize("kind", ["frozen", "live"])
@pytest.mark.parametrize("file", files("incremental"))
def test_a_step_with_pseudo_labels(file, kind, golden):
    """Release B's teacher is the model before the step, as here; release A's the one that is being fitted (Q2)."""
    g = golden(f"segacil/{file}.npz")
    names = ("features_before", "labels_before", "features", "labels", "projection")
    before, label_before, features, label, projection = tensors(g, *names)
    gamma, expected = float(g["gamma"]), torch.from_numpy(g[f"expected_weight_{kind}"])
    size, old = before.shape[-2:], g["expected_weight_before"].shape[1]
    auto, cross = zeros(len(projection), old)
    for some, own in zip(before, label_before, strict=True):
        add_rows(auto, cross, expand(some, projection), labels_on_grid(own, size))
    teacher = ridge_weight(auto, cross, gamma)
    assert_close(teacher, g["expected_weight_before"], 1e-7)
    cross = widened(cross, expected.shape[1])
    for some, own, wanted in zip(features, label, g[f"expected_labels_{kind}"], strict=True):
        weight = ridge_weight(auto, cross, gamma) if kind == "live" else teacher
        scores = regression_scores(some, projection[:, :, None, None], weight.T[:, :, None, None])
        own = map_pixels(believed, torch.sigmoid(scores), own.long(), threshold=float(g["threshold"]))
        np.testing.assert_array_equal(own, wanted)
        add_rows(auto, cross, expand(some, projection), labels_on_grid(own, size))
    assert_close(ridge_weight(auto, cross, gamma), expected, 1e-7)


@pytest.mark.parametrize("file", files("base"))
def test_loss_of_step_0(file, golden):
    g = golden(f"segacil/{file}.npz")
    logits, label = tensors(g, "logits", "labels")
    logits.requires_grad_()
    run = SegACILConfig().build(Step(0, (tuple(range(1, logits.shape[1])),)), NetworkConfig(pretrained=False))
    (term,) = run.loss(PlainOutput(logits, logits, logits), None, Batch(logits, label.long(), {})).values()
    assert_close(term.value.detach(), g["expected_loss"], 2e-5)
    assert_close(torch.autograd.grad(term.value, logits)[0], g["expected_grad_logits"], 2e-5)


def test_balanced_weights(golden):
    g = golden("segacil/balanced_1.npz")
    expanded, label = tensors(g, "expanded", "labels")
    width, channels = g["expected_weight"].shape
    autos, cross = torch.zeros(channels, width, width).double(), torch.zeros(width, channels).double()
    counts = torch.zeros(channels, dtype=torch.int64)
    for rows, own in zip(expanded, label, strict=True):
        add_rows_by_class(autos, cross, counts, rows, own)
    assert_close(balanced_weight(autos, cross, counts, float(g["gamma"])), g["expected_weight"])
