"""MiB, LwF and ILT against numbers of the official implementation (golden/mib), through the methods that train."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from arrays import named, step_of, tensors
from torch import nn

from barm.batch import Batch, total_loss
from barm.labels import Step
from barm.losses.unbiased import (
    distillation,
    feature_distillation,
    unbiased_cross_entropy,
    unbiased_distillation,
)
from barm.methods import METHODS
from barm.models.heads import PlainHead, PlainOutput
from barm.models.segmenter import NetworkConfig

pytestmark = pytest.mark.usefixtures("both_ways")

files = partial(named, "mib", "*")


def assert_close(actual, expected) -> None:
    """1e-5 of the largest value, 1e-9 in double precision."""
    expected = np.asarray(expected)
    bound = (1e-9 if expected.dtype == np.float64 else 1e-5) * max(float(np.abs(expected).max(initial=0)), 1e-6)
    assert float(np.abs(actual.detach().numpy() - expected).max(initial=0)) <= bound


@pytest.mark.parametrize("file", files("unbiased_ce"))
def test_unbiased_cross_entropy(file, golden):
    g = golden(f"mib/{file}.npz")
    logits, label = tensors(g, "student_logits", "labels")
    logits.requires_grad_()
    before = label.clone()
    term = unbiased_cross_entropy(logits, label, num_old=int(g["n_old_classes"]))
    assert_close(term.value, g["expected_loss"])
    assert_close(term.total, g["expected_loss_sum"])
    assert_close(torch.autograd.grad(term.value, logits, retain_graph=True)[0], g["expected_grad_student_logits"])
    assert_close(torch.autograd.grad(term.total, logits)[0], g["expected_grad_student_logits_sum"])
    assert torch.equal(label, before)


@pytest.mark.parametrize("file", files("unbiased_kd") + files("lwf_kd"))
def test_distillation(file, golden):
    g = golden(f"mib/{file}.npz")
    logits, old = tensors(g, "student_logits", "teacher_logits")
    logits.requires_grad_()
    loss = unbiased_distillation if file.startswith("unbiased") else distillation
    mask = torch.from_numpy(g["pixel_mask"]) if "pixel_mask" in g else None
    term = loss(logits, old, alpha=float(g["alpha"]), mask=mask)
    assert_close(term.value, g["expected_loss"])
    assert_close(term.total, g["expected_loss_sum"])
    assert_close(torch.autograd.grad(term.value, logits)[0], g["expected_grad_student_logits"])


@pytest.mark.parametrize("file", files("ilt_feature_mse"))
def test_feature_distillation(file, golden):
    g = golden(f"mib/{file}.npz")
    feature, old = tensors(g, "student_features", "teacher_features")
    feature.requires_grad_()
    term = feature_distillation(feature, old, weight=float(g["weight"]))
    assert_close(term.value, g["expected_loss"])
    assert_close(torch.autograd.grad(term.value, feature)[0], g["expected_grad_student_features"])


@pytest.mark.parametrize("file", files("objective"))
def test_objectives(file, golden):
    g = golden(f"mib/{file}.npz")
    name = str(g["method_name"]).lower()
    method = METHODS[name](name=name).build(step_of(g, background=True), NetworkConfig(pretrained=False))
    assert float(g["weight_kd"]) == method.config.distillation_weight
    logits, old, label = tensors(g, "student_logits", "teacher_logits", "labels")
    keys = ("student_features", "teacher_features")
    features = tensors(g, *keys) if keys[0] in g else [torch.zeros(()), torch.zeros(())]
    leaves = [logits.requires_grad_(), features[0].requires_grad_()]
    image = torch.zeros(len(label), 3, *label.shape[1:])
    new, previous = PlainOutput(logits, features[0], logits), PlainOutput(old, features[1], old)
    terms = method.loss(new, previous, Batch(image, label, {}))
    expected = [g[k] for k in ("expected_ce_term", "expected_kd_term", "expected_feature_term") if k in g]
    for term, value in zip(terms.values(), expected, strict=True):
        assert_close(term.value, value)
    total = total_loss(terms)
    assert_close(total, g["expected_loss"])
    gradients = torch.autograd.grad(total, leaves, allow_unused=True)
    assert_close(gradients[0], g["expected_grad_student_logits"])
    if keys[0] in g:
        assert_close(gradients[1], g["expected_grad_student_features"])


@pytest.mark.parametrize("file", files("classifier_init"))
def test_new_classes_start_where_the_background_was(file, golden):
    g = golden(f"mib/{file}.npz")
    sizes, width = [int(s) for s in g["classes_per_step"]], g["weight_before"].shape[1]
    ids = iter(range(1, sum(sizes)))
    groups = tuple(tuple(next(ids) for _ in range(s - (i == 0))) for i, s in enumerate(sizes))
    network = NetworkConfig(backbone="test_resnet", channels=width, pretrained=False)
    method = METHODS["mib"](name="mib").build(Step(len(sizes) - 1, groups), network)
    before = METHODS["mib"](name="mib").build(Step(len(sizes) - 2, groups[:-1]), network).build_model()
    model = method.build_model()
    fill_heads(before.classifier, g["weight_before"], g["bias_before"])
    method.init_from(model, before)
    weight = torch.cat([h.weight for h in model.classifier.head]).flatten(1)
    bias = torch.cat([h.bias for h in model.classifier.head])
    assert_close(weight, g["expected_weight_after"])
    assert_close(bias, g["expected_bias_after"])
    probe = torch.from_numpy(g["probe_features"])
    logits = torch.cat([head(probe) for head in model.classifier.head], dim=1)
    assert_close(logits, g["expected_student_logits_on_probe"])
    shares, known = torch.softmax(logits, dim=1), sum(sizes[:-1])
    folded = torch.cat([shares[:, :1] + shares[:, known:].sum(1, keepdim=True), shares[:, 1:known]], dim=1)
    torch.testing.assert_close(folded, torch.softmax(torch.from_numpy(g["teacher_logits_on_probe"]), dim=1))


def fill_heads(head: PlainHead, weight: np.ndarray, bias: np.ndarray) -> None:
    """Distribute the rows of one matrix over the heads of all steps."""
    start = 0
    with torch.no_grad():
        for conv in head.head:
            assert isinstance(conv, nn.Conv2d)
            rows = slice(start, start + conv.out_channels)
            conv.weight.copy_(torch.from_numpy(weight[rows])[..., None, None])
            conv.bias.copy_(torch.from_numpy(bias[rows]))
            start += conv.out_channels
