"""STAR against numbers of the official implementation (golden/star), through the method that trains."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from arrays import batch_of, named, step_of, tensors
from torch import nn

from barm.batch import total_loss
from barm.labels import Step
from barm.losses.decomposed import multiple_binary_cross_entropy
from barm.losses.prototypes import (
    Plan,
    Statistics,
    cell_counts,
    drawn_features,
    feature_sums,
    label_cells,
    order_of_drawing,
    statistics,
    teacher_labels,
)
from barm.losses.star import maintained_features, similarity_to_prototypes
from barm.methods import star
from barm.methods.star import STAR, STARConfig
from barm.models.heads import BinaryHead, BinaryOutput
from barm.models.segmenter import NetworkConfig

pytestmark = pytest.mark.usefixtures("both_ways")

files = partial(named, "star", "_*")


def assert_close(actual, expected) -> None:
    """The bound of the golden README: 3e-5 of the largest value."""
    expected = np.asarray(expected, np.float64)
    bound = 3e-5 * float(np.abs(expected).max(initial=0)) + 1e-7
    actual = actual.detach().double().numpy().reshape(expected.shape)
    assert float(np.abs(actual - expected).max(initial=0)) <= bound


def method_of(g, width: int = 4, **settings: float) -> STAR:
    """STAR at a step with the file's numbers of old and new classes."""
    network = NetworkConfig(backbone="test_resnet", pretrained=False, channels=width)
    return STARConfig(**settings).build(step_of(g, background=False), network)


def previous_of(g) -> Statistics:
    """Statistics of the old classes."""
    prototype, spread, norms = tensors(g, "previous_prototypes", "previous_noise", "previous_norm_mean_std")
    return Statistics(prototype, spread, norms[0], norms[1])


def classified(g, who: str) -> tuple[BinaryOutput, list[torch.Tensor]]:
    """A classifier's output for the file's features, and what it was made of."""
    weight, bias, feature = tensors(g, f"{who}_weight", f"{who}_bias", f"{who}_features")
    neck = nn.Identity()
    neck.width = weight.shape[1]
    head = BinaryHead(neck, weight.shape[1], [len(weight)])
    with torch.no_grad():
        head.head[0].weight.copy_(weight[..., None, None])
        head.head[0].bias.copy_(bias)
    feature.requires_grad_()
    return head.classify(feature), [feature, head.head[0].weight, head.head[0].bias]


@pytest.mark.parametrize("file", files("counts"))
def test_counts_of_cells(file, golden):
    g = golden(f"star/{file}.npz")
    first, number = int(g["n_old_classes"]) + 1, int(g["n_new_classes"])
    grid = tuple(side // 16 for side in g["labels"].shape[2:])
    found = [
        cell_counts(label_cells(torch.from_numpy(one).long(), grid), first=first, number=number) for one in g["labels"]
    ]
    np.testing.assert_array_equal(sum(found), g["expected_counts"])


@pytest.mark.parametrize("file", files("statistics"))
@pytest.mark.parametrize("own_reference", [False, True])
def test_what_is_handed_on(file, own_reference, golden):
    """Through the verbs of the method, which the engine calls."""
    g = golden(f"star/{file}.npz")
    method = method_of(g, g["features"].shape[2], own_reference=own_reference)
    if "previous_prototypes" in g:
        counts = torch.zeros(method.step.num_old, dtype=torch.float64)
        method.take_over({**previous_of(g)._asdict(), "counts": counts})
    sums = method.start_sums(torch.device("cpu"))
    for feature, label in zip(*tensors(g, "features"), g["labels"], strict=True):
        method.gather(BinaryOutput(feature, feature, feature, feature), batch_of(label), sums)
    method.gathered(nn.Identity(), sums)
    found = method.hand_on()
    assert_close(found["prototype"], g["expected_prototypes"])
    assert_close(torch.stack([found["mean"], found["deviation"]]), g["expected_norm_mean_std"])
    spread = "expected_noise_corrected" if own_reference and "expected_noise_corrected" in g else "expected_noise"
    assert_close(found["spread"], g[spread])


@pytest.mark.parametrize("file", files("statistics"))
def test_statistics_of_one_pass(file, golden):
    """The sums of all batches at once; the release passes twice over them."""
    g = golden(f"star/{file}.npz")
    feature, label = torch.from_numpy(g["features"]).flatten(0, 1), torch.from_numpy(g["labels"]).flatten(0, 1).long()
    first, number = int(g["n_old_classes"]) + 1, int(g["n_new_classes"])
    cells = label_cells(label, (feature.shape[2], feature.shape[3]))
    sums = feature_sums(feature, cells, first=first, number=number)
    earlier = torch.from_numpy(g["previous_prototypes"]) if first > 1 else torch.zeros(0, feature.shape[1])
    found = statistics(sums, cell_counts(cells, first=first, number=number)[1:], earlier)
    assert_close(found.prototype, g["expected_prototypes"][first - 1 :])
    assert_close(found.spread, g["expected_noise"][first - 1 :])


@pytest.mark.parametrize("file", files("plan"))
def test_plan_and_counts(file, golden):
    g = golden(f"star/{file}.npz")
    method = method_of(g, g["teacher_weight"].shape[1])
    method.set_conditions("overlap" if g["overlapped"] else "disjoint", 0, 1)
    method.set_length(int(g["iterations_per_epoch"]), 100)
    known = Statistics.empty(method.step.num_old - 1, method.width)
    known = known._replace(prototype=known.prototype + 1)  # of every class something is known
    method.take_over({**known._asdict(), "counts": torch.from_numpy(g["previous_counts"])})
    seen = torch.zeros(method.step.num_old, dtype=torch.int64)
    for feature, label in zip(g["teacher_features"], g["labels"], strict=True):
        out, _ = classified({**g, "teacher_features": feature}, "teacher")
        seen = seen + method.observe(out, batch_of(label))
    np.testing.assert_array_equal(seen, g["expected_predicted_counts"])
    method.calibrate(seen)
    per_class = torch.bincount(method.order, minlength=method.step.num_old - 1)
    np.testing.assert_array_equal(per_class, g["expected_replay_per_iteration"])
    assert method.repetition == pytest.approx(float(g["expected_background_ratio"]), rel=3e-5)
    sums = method.start_sums(torch.device("cpu"))
    sums["cells"] += torch.from_numpy(g["step_counts"]).long()
    method.gathered(nn.Identity(), sums)
    assert_close(method.hand_on()["counts"], g["expected_counts_after"])


@pytest.mark.parametrize("file", files("mbce"))
def test_binary_cross_entropy_of_new_classes(file, golden):
    g = golden(f"star/{file}.npz")
    logits, label = tensors(g, "student_logits", "labels")
    logits.requires_grad_()
    options = {"positive_weight": float(g["pos_weight"])}
    first = int(g["n_old_classes"]) + 1
    term = multiple_binary_cross_entropy(logits, label.long(), first=first, **options)
    assert_close(term.value, g["expected_loss"])
    assert_close(torch.autograd.grad(term.value, logits)[0], g["expected_grad_student_logits"])
    for j, expected in enumerate(g["expected_loss_per_class"]):
        one = multiple_binary_cross_entropy(logits[:, j : j + 1], label.long(), first=first + j, **options)
        assert_close(one.value, expected)


@pytest.mark.parametrize("file", files("ocfm"))
def test_maintained_features(file, golden):
    g = golden(f"star/{file}.npz")
    feature, old, region = tensors(g, "student_features", "teacher_features", "old_region")
    feature.requires_grad_()
    term = maintained_features(feature, old, region)
    assert_close(term.value, g["expected_loss"])
    assert_close(torch.autograd.grad(term.value, feature)[0], g["expected_grad_student_features"])


@pytest.mark.parametrize("file", files("sad"))
def test_similarity_to_prototypes(file, golden):
    g = golden(f"star/{file}.npz")
    feature, label, prototypes = tensors(g, "student_features", "labels", "previous_prototypes")
    feature.requires_grad_()
    first, number = int(g["n_old_classes"]) + 1, int(g["n_new_classes"])
    term = similarity_to_prototypes(feature, label.long(), prototypes, first=first, number=number)
    assert_close(term.value, g["expected_loss"])
    assert_close(torch.autograd.grad(term.value, feature)[0], g["expected_grad_student_features"])


@pytest.mark.parametrize("file", files("replay"))
def test_drawn_features(file, golden):
    g = golden(f"star/{file}.npz")
    direction, norm = tensors(g, "normal_direction", "normal_norm")
    order = order_of_drawing(tuple(g["replay_per_iteration"].tolist()))
    assert_close(drawn_features(previous_of(g), order, direction.T, norm.T).T, g["expected_replayed_features"])


@pytest.mark.parametrize("file", files("objective_base"))
def test_objective_of_step_0(file, golden):
    g = golden(f"star/{file}.npz")
    out, leaves = classified(g, "student")
    method = method_of(g, out.branch.shape[1], pos_weight=float(g["pos_weight"]))
    total = total_loss(method.loss(out, None, batch_of(g["labels"])))
    assert_close(total, g["expected_loss"])
    for name, gradient in zip(("features", "weight", "bias"), torch.autograd.grad(total, leaves), strict=True):
        assert_close(gradient, g[f"expected_grad_student_{name}"])


@pytest.mark.parametrize("file", [f for f in files("objective") if "base" not in f])
def test_objective_of_later_steps(file, golden, monkeypatch):
    g = golden(f"star/{file}.npz")
    out, leaves = classified(g, "student")
    old, _ = classified(g, "teacher")
    settings = {"features_weight": "ocfm", "similarity_weight": "sad"}
    weights = {ours: float(g[f"weight_{theirs}"]) for ours, theirs in settings.items()}
    method = method_of(g, out.branch.shape[1], pos_weight=float(g["pos_weight"]), **weights)
    counts = torch.zeros(method.step.num_old)
    method.take_over({**previous_of(g)._asdict(), "counts": counts})
    method.replay(Plan(tuple(g["replay_per_iteration"].tolist()), float(g["background_ratio"])))
    normals = iter(tensors(g, "normal_direction", "normal_norm"))
    monkeypatch.setattr(star.torch, "randn", lambda *_args, **_options: next(normals).T)
    terms = method.loss(out, BinaryOutput(*(part.detach() for part in old)), batch_of(g["labels"]))
    terms["mbce"] = terms["mbce"]._replace(weight=float(g["weight_mbce"]))
    for name, term in terms.items():
        assert_close(term.value, g[f"expected_weighted_{name}"])
    total = total_loss(terms)
    assert_close(total, g["expected_loss"])
    for name, gradient in zip(("features", "weight", "bias"), torch.autograd.grad(total, leaves), strict=True):
        assert_close(gradient, g[f"expected_grad_student_{name}"])
        if name != "features":  # nothing reaches the old classifiers
            assert not gradient[: int(g["n_old_classes"])].any()


@pytest.mark.parametrize("file", files("prediction"))
def test_prediction_and_teacher(file, golden):
    g = golden(f"star/{file}.npz")
    logits = torch.from_numpy(g["logits"])
    method = STARConfig().build(Step(0, (tuple(range(1, 1 + logits.shape[1])),)), NetworkConfig(pretrained=False))
    out = BinaryOutput(logits, logits, logits, logits)
    size = (logits.shape[2], logits.shape[3])
    np.testing.assert_array_equal(method.predict(out, size), g["expected_prediction"])
    np.testing.assert_array_equal(teacher_labels(logits), g["expected_teacher_prediction"])
