"""DKD against numbers of the official implementation (golden/dkd), through the method that trains."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from arrays import named, step_of, tensors
from torch import nn

from barm.batch import Batch, total_loss
from barm.config import load_config
from barm.data.exemplars import Exemplar
from barm.engine.schedule import learning_rate, scheduled
from barm.engine.selection import channels_in, take_in_turn
from barm.labels import IGNORE, LabelPolicy, Step, TaskPlan
from barm.losses.common import sigmoid_distillation
from barm.losses.decomposed import auxiliary_loss, multiple_binary_cross_entropy
from barm.methods.dkd import DKD, DKDConfig, DKDMConfig
from barm.metrics import (
    class_accuracy,
    class_iou,
    confusion_counts,
    group_means,
    harmonic_mean,
    overall_accuracy,
)
from barm.models.heads import DecomposedHead, DecomposedOutput
from barm.models.segmenter import NetworkConfig
from barm.ops.upsampled import upsample

pytestmark = pytest.mark.usefixtures("both_ways")

files = partial(named, "dkd", "_*")
NETWORK = NetworkConfig(backbone="test_resnet", pretrained=False)


def assert_close(actual, expected) -> None:
    """The bound of the golden README: 2e-5 of the largest value."""
    expected = np.asarray(expected, np.float64)
    bound = 2e-5 * float(np.abs(expected).max(initial=0)) + 1e-7
    assert float(np.abs(actual.detach().double().numpy() - expected).max(initial=0)) <= bound


def method_of(g, **settings: float) -> DKD:
    """DKD at a step with the file's numbers of old and new classes."""
    return DKDConfig(**settings).build(step_of(g, background=False), NETWORK)


def head_of(width: int, sizes: list[int], aux: tuple, classes: tuple) -> DecomposedHead:
    """A classifier with given weights, one group per size."""
    neck = nn.Identity()
    neck.width = width
    head = DecomposedHead(neck, width, sizes)
    rows = [torch.from_numpy(a).split(sizes) for a in classes]
    with torch.no_grad():
        head.aux.weight.copy_(torch.from_numpy(aux[0])[..., None, None])
        head.aux.bias.copy_(torch.from_numpy(aux[1]))
        for i, conv in enumerate(head.head):
            conv.weight.copy_(rows[0][i][..., None, None])
            conv.bias.copy_(rows[1][i])
    return head


@pytest.mark.parametrize("file", files("mbce"))
def test_multiple_binary_cross_entropy(file, golden):
    g = golden(f"dkd/{file}.npz")
    logits, label = tensors(g, "student_logits", "labels")
    if len(set(g["pos_weight"].tolist())) > 1:
        parts = [  # a class at a time: our recipe has one weight for all
            multiple_binary_cross_entropy(
                logits[:, j : j + 1], label.long(), first=int(g["n_old_classes"]) + 1 + j, positive_weight=float(w)
            ).value
            for j, w in enumerate(g["pos_weight"])
        ]
        assert_close(torch.stack(parts), g["expected_loss_per_class"])
        return
    logits.requires_grad_()
    term = multiple_binary_cross_entropy(
        logits, label.long(), first=int(g["n_old_classes"]) + 1, positive_weight=float(g["pos_weight"][0])
    )
    assert_close(term.value, g["expected_loss"])
    assert_close(torch.autograd.grad(term.value, logits)[0], g["expected_grad_student_logits"])


@pytest.mark.parametrize("file", files("kd"))
def test_logit_distillation(file, golden):
    g = golden(f"dkd/{file}.npz")
    logits, old = tensors(g, "student_logits", "teacher_logits")
    logits.requires_grad_()
    term = sigmoid_distillation(logits[:, 1 : int(g["n_old_classes"]) + 1], old[:, 1:])
    assert_close(term.value, g["expected_loss"])
    assert_close(torch.autograd.grad(term.value, logits)[0], g["expected_grad_student_logits"])


@pytest.mark.parametrize("file", files("ac"))
def test_auxiliary_loss(file, golden):
    g = golden(f"dkd/{file}.npz")
    logits = torch.from_numpy(g["student_logits"]).requires_grad_()
    term = auxiliary_loss(logits[:, 0])
    assert_close(term.value, g["expected_loss"])
    assert_close(torch.autograd.grad(term.value, logits)[0], g["expected_grad_student_logits"])


@pytest.mark.parametrize("file", files("dkd"))
def test_decomposed_distillation(file, golden):
    g = golden(f"dkd/{file}.npz")
    outputs, leaves = {}, []
    for who in ("student", "teacher"):
        weight, width = g[f"{who}_weight"], g[f"{who}_weight"].shape[1]
        aux = (np.zeros((1, width), np.float32), np.zeros(1, np.float32))
        head = head_of(width, [len(weight)], aux, (weight, np.zeros(len(weight), np.float32)))
        feature = torch.from_numpy(g[f"{who}_features"]).requires_grad_()
        outputs[who] = head.classify(feature)
        leaves.append((feature, head.head[0].weight))
        assert_close(outputs[who].positive, g[f"expected_{who}_pos_scores"])
        assert_close(outputs[who].negative, g[f"expected_{who}_neg_scores"])
    count = int(g["n_old_classes"])
    for sign in ("pos", "neg"):
        new, old = ({"pos": o.positive, "neg": o.negative}[sign] for o in outputs.values())
        term = sigmoid_distillation(new[:, :count], old.detach())
        assert_close(term.value, g[f"expected_loss_{sign}"])
        feature, weight = torch.autograd.grad(term.value, leaves[0], retain_graph=True)
        assert_close(feature, g[f"expected_grad_student_features_{sign}"])
        assert_close(weight.flatten(1), g[f"expected_grad_student_weight_{sign}"])


@pytest.mark.parametrize("file", files("head"))
def test_classifier(file, golden):
    g = golden(f"dkd/{file}.npz")
    sizes = [int(s) for s in g["classes_per_step"]]
    aux, classes = (g["aux_weight"], g["aux_bias"]), (g["class_weight"], g["class_bias"])
    out = head_of(g["class_weight"].shape[1], sizes, aux, classes).classify(torch.from_numpy(g["features"]))
    assert_close(out.logits, g["expected_logits_small"])
    assert_close(upsample(out.logits, (int(g["output_height"]), int(g["output_width"]))), g["expected_logits"])
    assert_close(out.positive, g["expected_pos_scores"])
    assert_close(out.negative, g["expected_neg_scores"])


@pytest.mark.parametrize("file", files("novel_init"))
def test_new_classes_start_as_the_auxiliary_classifier(file, golden):
    g = golden(f"dkd/{file}.npz")
    old, new, width = len(g["old_bias"]), len(g["new_bias_before"]), g["aux_weight"].shape[1]
    groups = (tuple(range(1, old + 1)), tuple(range(old + 1, old + new + 1)))
    network = NETWORK.model_copy(update={"channels": width})
    before = DKDConfig().build(Step(0, groups[:1]), network).build_model()
    method = DKDConfig().build(Step(1, groups), network)
    model = method.build_model()
    filled = head_of(width, [old], (g["aux_weight"], g["aux_bias"]), (g["old_weight"], g["old_bias"]))
    before.classifier.aux.load_state_dict(filled.aux.state_dict())
    before.classifier.head.load_state_dict(filled.head.state_dict())
    method.init_from(model, before)
    head = model.classifier
    for name, conv in (("aux", head.aux), ("old", head.head[0]), ("new", head.head[1])):
        np.testing.assert_array_equal(conv.weight.detach().flatten(1), g[f"expected_{name}_weight"])
        np.testing.assert_array_equal(conv.bias.detach(), g[f"expected_{name}_bias"])


@pytest.mark.parametrize("file", files("objective_base") + files("objective_step"))
def test_objectives(file, golden):
    g = golden(f"dkd/{file}.npz")
    step = "teacher_features" in g
    weights = {"auxiliary_weight": float(g["weight_ac"])}
    if step:
        names = {"kd_weight": "kd", "positive_weight": "dkd_pos", "negative_weight": "dkd_neg"}
        weights |= {ours: float(g[f"weight_{theirs}"]) for ours, theirs in names.items()}
    positive = float(g["pos_weight"])
    method = method_of(g, base_pos_weight=positive, pos_weight=positive, **weights)
    outputs, leaves = [], []
    for who in ("student", "teacher")[: 1 + step]:
        aux, classes = (tuple(g[f"{who}_{k}_{p}"] for p in ("weight", "bias")) for k in ("aux", "class"))
        head = head_of(classes[0].shape[1], [len(classes[0])], aux, classes)
        feature = torch.from_numpy(g[f"{who}_features"]).requires_grad_()
        outputs.append(head.classify(feature))
        leaves.append([feature, head.aux.weight, head.aux.bias, head.head[0].weight, head.head[0].bias])
    label = torch.from_numpy(g["labels"]).long()
    old = DecomposedOutput(*(t.detach() for t in outputs[1])) if step else None
    terms = method.loss(outputs[0], old, Batch(torch.zeros(len(label), 3, *label.shape[1:]), label, {}))
    for name, term in terms.items():
        assert_close(term.value / term.weight, g[f"expected_term_{name}"])
    # the file may weigh the first term as well; in the method its weight is 1
    terms["mbce"] = terms["mbce"]._replace(weight=float(g["weight_mbce"]))
    total = total_loss(terms)
    assert_close(total, g["expected_loss"])
    names = ("features", "aux_weight", "aux_bias", "class_weight", "class_bias")
    for name, gradient in zip(names, torch.autograd.grad(total, leaves[0]), strict=True):
        expected = g[f"expected_grad_student_{name}"]
        assert_close(gradient.reshape(expected.shape), expected)


@pytest.mark.parametrize("file", files("prediction"))
def test_prediction(file, golden):
    g = golden(f"dkd/{file}.npz")
    logits = torch.from_numpy(g["logits"])
    groups = (tuple(range(1, logits.shape[1])),)
    method = DKDConfig().build(Step(0, groups), NETWORK)
    out = DecomposedOutput(logits, logits, logits)
    prediction = method.predict(out, (logits.shape[2], logits.shape[3]))
    np.testing.assert_array_equal(prediction, g["expected_prediction"])


@pytest.mark.parametrize("file", files("lr"))
def test_schedules(file, golden):
    g = golden(f"dkd/{file}.npz")
    base, total, warm_up = float(g["base_lr"]), int(g["max_iters"]), float(g["warmup_fraction"])
    ours = [
        [learning_rate("warm_poly", rate, i, total, warm_up=warm_up, whole=False) for rate in (base, 10 * base)]
        for i in range(total + 1)
    ]
    np.testing.assert_allclose(ours, g["expected_lr"], rtol=1e-9, atol=1e-15)


def test_a_warm_up_need_not_end_with_an_update():
    """spec/dkd.md section 6: over 43 updates it lasts 8.6; the ninth, number 8, is still below the polynomial."""
    recipe = load_config("ade/100-50/dkd").base
    for iteration in range(44):
        rising = 0.2 * 43
        factor = 0.001 * (1 - iteration / rising) + iteration / rising if iteration < rising else 1.0
        expected = 0.025 * factor * (1 - iteration / 43) ** 0.9
        assert scheduled(recipe, 0.025, iteration, 43) == pytest.approx(expected, rel=1e-12, abs=1e-18)


@pytest.mark.parametrize("file", files("memory_select"))
def test_choice_of_the_memory(file, golden):
    g = golden(f"dkd/{file}.npz")
    pool = [
        Exemplar(f"{number:06d}", tuple(np.flatnonzero(row)))
        for number, row in zip(g["candidate_ids"], g["candidate_label_sets"], strict=True)
    ]
    taken = take_in_turn(pool, g["class_order"].tolist(), int(g["memory_size"]))
    assert sorted(int(e.name) for e in taken) == g["expected_selected_ids_sorted"].tolist()
    by_class = g["expected_selected_ids_class_major"].tolist()
    assert [int(e.name) for e in taken] == by_class


def test_classes_that_an_image_shows(golden):
    g = golden("dkd/memory_select_2.npz")
    known = g["teacher_logits"].shape[1] - 1
    config = DKDMConfig()
    method = config.build(Step(1, (tuple(range(1, known)), (known,))), NETWORK)
    logits, label = tensors(g, "teacher_logits", "labels")
    batch = Batch(torch.zeros(len(label), 3, 1, 1), label.long(), {})
    found = method.annotate(DecomposedOutput(logits, logits, logits), batch, config.memory.threshold)
    for one, expected in zip(found, g["expected_image_label_sets"], strict=True):
        assert channels_in(one) == tuple(np.flatnonzero(expected))


@pytest.mark.parametrize("file", files("label_mask"))
def test_label_mask(file, golden):
    g = golden(f"dkd/{file}.npz")
    hidden = int(g["masking_value"])
    plan = TaskPlan((tuple(g["old_classes"].tolist()), tuple(g["new_classes"].tolist())))
    classes = sorted(set(g["raw_labels"].flatten().tolist()) - {0, IGNORE} - set(plan.classes))
    plan = TaskPlan((*plan.groups, tuple(classes)))
    policy = LabelPolicy(hidden=hidden, unseen=hidden)
    lut = plan.eval_lut(plan[1], policy) if g["is_test"] else plan.train_lut(plan[1], policy)
    channel = {i: c for c, i in enumerate((0, *plan[1].seen))} | {IGNORE: IGNORE}
    expected = np.vectorize(channel.get)(g["expected_labels"])
    np.testing.assert_array_equal(lut[g["raw_labels"]], expected)


@pytest.mark.parametrize("file", files("metric"))
def test_metrics(file, golden):
    g = golden(f"dkd/{file}.npz")
    base, count = len(g["old_classes"]), int(g["n_classes_incl_background"])
    truth, prediction = tensors(g, "ground_truth", "prediction")
    counts = confusion_counts(prediction, truth, count)
    np.testing.assert_array_equal(counts, g["expected_confusion"])
    assert 100 * overall_accuracy(counts) == pytest.approx(float(g["expected_pixel_accuracy_overall"]), rel=1e-5)
    scores = {"class_accuracy": class_accuracy(counts), "iou": class_iou(counts)}
    for name, values in scores.items():
        np.testing.assert_allclose(100 * values, np.nan_to_num(g[f"expected_{name}_by_class"]), rtol=1e-5, atol=1e-5)
    iou = group_means(scores["iou"], base)
    assert 100 * iou["all"] == pytest.approx(float(g["expected_iou_overall"]), rel=1e-5)
    if "new" in iou:
        for name in ("old", "new"):
            assert 100 * iou[name] == pytest.approx(float(g[f"expected_iou_{name}"]), rel=1e-5)
        harmonic = 100 * harmonic_mean(iou["old"], iou["new"])
        assert harmonic == pytest.approx(float(g["expected_iou_harmonic"]), rel=1e-5)
