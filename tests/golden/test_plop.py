"""PLOP against numbers of the official implementation (golden/plop)."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from arrays import named, tensors

from barm.batch import Batch, total_loss
from barm.labels import Step
from barm.losses.entropy import (
    adaptive_cross_entropy,
    belief,
    believed_labels,
    entropy_histogram,
    median_thresholds,
    published_thresholds,
)
from barm.losses.pod import embedding, local_pod
from barm.methods.plop import PLOPConfig
from barm.models.heads import PlainOutput
from barm.models.segmenter import NetworkConfig

pytestmark = pytest.mark.usefixtures("both_ways")

files = partial(named, "plop", "*")


def assert_close(actual, expected, relative=1e-5) -> None:
    """Within a share of the largest value."""
    expected = np.asarray(expected, np.float64)
    bound = relative * max(float(np.abs(expected).max(initial=0)), 1e-7)
    assert float(np.abs(actual.detach().double().numpy() - expected).max(initial=0)) <= bound


def channels(g) -> dict[str, int]:
    return {"num_seen": int(g["n_current_classes"]), "num_new": int(g["n_new_classes"])}


@pytest.mark.parametrize("file", files("local_pod"))
def test_local_pod(file, golden):
    g = golden(f"plop/{file}.npz")
    levels = range(int(g["n_levels"]))
    old = tensors(g, *(f"teacher_level_{k}" for k in levels))
    new = [t.requires_grad_() for t in tensors(g, *(f"student_level_{k}" for k in levels))]
    term = local_pod(
        new,
        old,
        weight=float(g["weight_intermediate"]),
        weight_last=float(g["weight_last"]),
        scales=g["pooling_scales"].tolist(),
        **channels(g),
    )
    assert_close(term.value, g["expected_loss"])
    for gradient, k in zip(torch.autograd.grad(term.value, new), levels, strict=True):
        assert_close(gradient, g[f"expected_grad_student_level_{k}"])
    if "embedding_level" in g:
        k = int(g["embedding_level"])
        assert_close(embedding(old[k] ** 2), g["expected_embedding_teacher"])
        assert_close(embedding(new[k] ** 2), g["expected_embedding_student"])


@pytest.mark.parametrize("file", files("thresholds"))
def test_thresholds(file, golden):
    g = golden(f"plop/{file}.npz")
    seen = int(g["n_current_classes"])
    histogram = torch.zeros(seen, 100, dtype=torch.int64)
    for i in range(int(g["n_batches"])):
        logits, label = tensors(g, f"teacher_logits_{i}", f"labels_{i}")
        histogram += entropy_histogram(belief(logits, seen), label, seen)
    np.testing.assert_array_equal(histogram, g["expected_histogram"])
    found = published_thresholds(histogram, float(g["base_threshold"]))
    np.testing.assert_allclose(found, g["expected_thresholds"], rtol=1e-6)


@pytest.mark.parametrize("file", files("pseudo_labels"))
def test_pseudo_labels(file, golden):
    g = golden(f"plop/{file}.npz")
    old, logits, label, thresholds = tensors(g, "teacher_logits", "student_logits", "labels", "thresholds")
    logits.requires_grad_()
    before = label.clone()
    seen = belief(old, int(g["n_current_classes"]))
    assert_close(seen.entropy, g["expected_normalised_entropy"])
    np.testing.assert_array_equal(seen.channel, g["expected_argmax_class"])
    targets = believed_labels(seen, label, thresholds, num_old=int(g["n_old_classes"]))
    np.testing.assert_array_equal(targets.label, g["expected_pseudo_labels"])
    assert_close(targets.factor, g["expected_adaptive_factor"])
    term = adaptive_cross_entropy(logits, targets)
    assert_close(term.value, g["expected_loss"])
    assert_close(torch.autograd.grad(term.value, logits)[0], g["expected_grad_student_logits"])
    assert torch.equal(label, before)


@pytest.mark.parametrize("file", files("objective"))
def test_objectives(file, golden):
    g = golden(f"plop/{file}.npz")
    known, new = int(g["n_old_classes"]), int(g["n_new_classes"])
    step = Step(1, (tuple(range(1, known)), tuple(range(known, known + new))))
    config = PLOPConfig(pod_weight=float(g["weight_intermediate"]), pod_weight_last=float(g["weight_last"]))
    method = config.build(step, NetworkConfig(pretrained=False))
    method.load_state_dict({"thresholds": torch.from_numpy(g["thresholds"])})
    levels = range(int(g["n_intermediate_levels"]))
    label = torch.from_numpy(g["labels"])
    outputs, leaves = [], []
    for who in ("student", "teacher"):
        logits, *maps = tensors(g, f"{who}_logits_small", *(f"{who}_level_{k}" for k in levels))
        leaves.append([t.requires_grad_(who == "student") for t in (logits, *maps)])
        outputs.append(PlainOutput(logits, maps[-1], maps[-1], tuple(maps[:-1])))
    batch = Batch(torch.zeros(len(label), 3, *label.shape[1:]), label, {})
    if bool(g["thresholds_calibrated_on_this_batch"]):
        method.calibrate(method.observe(outputs[1], batch))
        np.testing.assert_allclose(method.state_dict()["thresholds"], g["thresholds"], rtol=1e-6)
    terms = method.loss(outputs[0], outputs[1], batch)
    assert_close(terms["ce"].value, g["expected_ce_term"])
    assert_close(terms["pod"].value, g["expected_pod_term"])
    total = total_loss(terms)
    assert_close(total, g["expected_loss"])
    names = ["logits_small", *(f"level_{k}" for k in levels)]
    for name, gradient in zip(names, torch.autograd.grad(total, leaves[0]), strict=True):
        assert_close(gradient, g[f"expected_grad_student_{name}"])


def test_median_of_a_histogram():
    histogram = torch.zeros(4, 100, dtype=torch.int64)
    histogram[0, 0] = 50_000  # all in one bin: its middle
    histogram[1, :100] = 1_000  # flat
    histogram[2, 10], histogram[2, 30] = 100, 300
    median = median_thresholds(histogram, 0.001)
    torch.testing.assert_close(median, torch.tensor([0.005, 0.5, 0.30 + 0.01 / 3, 0.001]))
    published = published_thresholds(histogram, 0.001)
    assert float(published[0]) == pytest.approx(0.005)
    assert float(published[1]) > 1  # above every entropy: the published search misses the median of a flat histogram
