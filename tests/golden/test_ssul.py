"""SSUL against numbers of the official implementation (golden/ssul), through the method that trains."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import pytest
import torch
from arrays import DATA, named
from torch import nn

from barm.batch import Batch
from barm.data.exemplars import Exemplar, MemoryConfig
from barm.data.sampler import replaced
from barm.engine.selection import channels_in, draw_exemplars
from barm.labels import IGNORE, INCREMENTAL, JOINT, Step, TaskPlan
from barm.losses.common import binary_cross_entropy, focal_loss, pseudo_labels
from barm.losses.segmentation import SEGMENTATION_LOSSES
from barm.methods.finetune import FineTuneConfig
from barm.methods.groups import Rates
from barm.methods.ssul import SSULConfig, SSULMConfig, unknown_labels
from barm.metrics import class_iou, confusion_counts
from barm.models.heads import UnknownHead, UnknownOutput
from barm.models.segmenter import NetworkConfig

pytestmark = pytest.mark.usefixtures("both_ways")

files = partial(named, "ssul", "_*")
LOSSES = {"bce_loss": "bce", "ce_loss": "ce", "focal_loss": "focal"}


def assert_close(actual, expected) -> None:
    """The bound of the golden README: 1e-5, absolute and relative."""
    np.testing.assert_allclose(actual.detach().numpy(), expected, rtol=1e-5, atol=1e-5)


def arguments(g) -> dict:
    return json.loads(str(g["args"]))


@pytest.mark.parametrize("file", [f for f in files("bce") if f.endswith(("mean", "sum")) or "all_ignored" in f])
def test_binary_cross_entropy(file, golden):
    g = golden(f"ssul/{file}.npz")
    logits = torch.from_numpy(g["logits"]).requires_grad_()
    term = binary_cross_entropy(logits, torch.from_numpy(g["target"]))
    loss = term.total if "sum" in file else term.value
    expected = np.nan_to_num(g["out"])  # all ignored: NaN there, 0 here (Q22)
    assert_close(loss, expected)
    gradient = torch.autograd.grad(loss * torch.from_numpy(np.asarray(g["grad_out"])), logits)[0]
    assert_close(gradient, g["grad_logits"])


PER_PIXEL = [f for f in files("bce") if f.endswith(("none", "_w"))]


@pytest.mark.parametrize("file", PER_PIXEL)
def test_binary_cross_entropy_of_every_pixel(file, golden):
    """The same function, a pixel at a time; per-pixel weights multiply what it gives."""
    g = golden(f"ssul/{file}.npz")
    settings = arguments(g)
    logits, target = torch.from_numpy(g["logits"]).requires_grad_(), torch.from_numpy(g["target"])
    pixels = logits.permute(0, 2, 3, 1).reshape(-1, logits.shape[1], 1, 1)
    pairs = zip(pixels, target.flatten(), strict=True)
    loss = torch.stack([binary_cross_entropy(x[None], y.view(1, 1, 1)).total for x, y in pairs]).view(target.shape)
    if settings["weight"]:
        loss = loss * torch.from_numpy(g["weight"])
    if settings["reduction"] != "none":
        loss = loss.sum() / ((target != IGNORE).sum() if settings["reduction"] == "mean" else 1)
    assert_close(loss, g["out"])
    assert_close(torch.autograd.grad((loss * torch.from_numpy(g["grad_out"])).sum(), logits)[0], g["grad_logits"])


@pytest.mark.parametrize(("file", "ignored"), [("bce_30_label_eq_C", 6), ("bce_31_ignore_minus1", -1)])
def test_other_labels_that_are_left_out(file, ignored, golden):
    """Here 255 is the only such label: tables never give another one."""
    g = golden(f"ssul/{file}.npz")
    logits, target = torch.from_numpy(g["logits"]).requires_grad_(), torch.from_numpy(g["target"])
    term = binary_cross_entropy(logits, torch.where(target == ignored, IGNORE, target))
    assert_close(term.value, g["out"])
    assert_close(torch.autograd.grad(term.value, logits)[0], g["grad_logits"])


@pytest.mark.parametrize("file", files("focal"))
def test_focal_loss(file, golden):
    g = golden(f"ssul/{file}.npz")
    settings = arguments(g)
    logits = torch.from_numpy(g["logits"]).requires_grad_()
    term = focal_loss(logits, torch.from_numpy(g["target"]), alpha=settings["alpha"], gamma=settings["gamma"])
    loss = term.value if settings["size_average"] else term.total
    assert_close(loss, g["out"])
    assert_close(torch.autograd.grad(loss, logits)[0], g["grad_logits"])


@pytest.mark.parametrize("file", files("pseudo"))
def test_pseudo_labels(file, golden):
    g = golden(f"ssul/{file}.npz")
    settings = arguments(g)
    loss = LOSSES[settings["loss_type"]]
    label = pseudo_labels(
        torch.from_numpy(g["logits_prev"]),
        torch.from_numpy(g["label"]),
        threshold=settings["pseudo_thresh"],
        softmax=loss != "bce",
        first=settings["fg_idx"] + 1,
    )
    np.testing.assert_array_equal(label, g["pseudo_label"])
    logits = torch.from_numpy(g["logits"]).requires_grad_()
    term = SEGMENTATION_LOSSES[loss](logits, label)
    assert_close(term.value, g["loss"])
    assert_close(torch.autograd.grad(term.value, logits)[0], g["grad_logits"])


@pytest.mark.parametrize("file", files("labels"))
def test_unknown_labels(file, golden):
    g = golden(f"ssul/{file}.npz")
    settings = arguments(g)
    plan = TaskPlan.parse(settings["task"], 20 if settings["dataset"] == "voc" else 150)
    lut = plan.train_lut(plan[settings["step"]], INCREMENTAL)
    label = torch.from_numpy(lut[g["gt"]].astype(np.int64))
    np.testing.assert_array_equal(label, g["train_unknown0"])
    saliency = torch.from_numpy(g["saliency"]) if "saliency" in g else None
    np.testing.assert_array_equal(unknown_labels(label, saliency), g["train_unknown1"])


@pytest.mark.parametrize("file", files("transfer"))
def test_new_heads_start_as_the_unknown(file, golden):
    g = golden(f"ssul/{file}.npz")
    settings = arguments(g)
    sizes, new, width = settings["classes_prev"], settings["classes_new"], settings["channels"]
    ids = iter(range(1, 99))
    groups = tuple(tuple(next(ids) for _ in range(size)) for size in (*sizes[2:], new))
    network = NetworkConfig(backbone="test_resnet", channels=width, pretrained=False)
    config = SSULConfig(weight_transfer=settings["w_transfer"])
    before = config.build(Step(len(groups) - 2, groups[:-1]), network).build_model()
    method = config.build(Step(len(groups) - 1, groups), network)
    model = method.build_model()
    fill(before.classifier, g, "prev")
    fill(model.classifier, g, "init")
    method.init_from(model, before)
    for name, value in named(model.classifier):
        np.testing.assert_array_equal(value.detach(), g[f"out_{name}"], err_msg=name)


def named(head: UnknownHead):
    """Every tensor of the heads under its name in the golden files."""
    for h, sequence in enumerate(head.head):
        for layer, module in (("conv3", sequence[0]), ("bn", sequence[1]), ("conv1", sequence[3])):
            for entry, value in module.state_dict(keep_vars=True).items():
                yield f"h{h}_{layer}_{entry}", value


def fill(head: UnknownHead, g, phase: str) -> None:
    with torch.no_grad():
        for name, value in named(head):
            value.copy_(torch.from_numpy(np.asarray(g[f"{phase}_{name}"])))


@pytest.mark.parametrize("file", files("predict"))
def test_prediction(file, golden):
    g = golden(f"ssul/{file}.npz")
    settings = arguments(g)
    logits, count = torch.from_numpy(g["logits"]), settings["n_classes"]
    config = SSULConfig if settings["unknown"] else FineTuneConfig  # the plain rule without the unknown
    method = config(loss=LOSSES[settings["loss_type"]]).build(
        Step(0, (tuple(range(1, count)),)), NetworkConfig(pretrained=False)
    )
    prediction = method.predict(UnknownOutput(logits), (logits.shape[2], logits.shape[3]))
    np.testing.assert_array_equal(prediction, g["pred"])
    counts = confusion_counts(prediction, torch.from_numpy(g["label"]), count)
    np.testing.assert_array_equal(counts, g["confusion"])
    np.testing.assert_allclose(class_iou(counts), g["class_iou"], rtol=1e-9)


@pytest.mark.parametrize("file", files("metrics"))
def test_metrics_of_the_code_base(file, golden):
    """Without the epsilon, and without the classes that neither occur nor are predicted (spec/deeplab.md section 6)."""
    g = golden(f"ssul/{file}.npz")
    count = len(g["class_iou"])
    counts = confusion_counts(torch.from_numpy(g["pred"]), torch.from_numpy(g["label"]), count)
    iou, present = class_iou(counts), ~np.isnan(g["noeps_class_iou"])
    np.testing.assert_allclose(iou[present], g["noeps_class_iou"][present], rtol=1e-5)
    assert not iou[~present].any()
    assert iou[present].mean() == pytest.approx(float(g["noeps_mean_iou"]), rel=1e-5)


def test_only_the_newest_the_unknown_and_the_background_head_train():
    groups = (tuple(range(1, 16)), (16,))
    method = SSULConfig().build(Step(1, groups), NetworkConfig(backbone="test_resnet", channels=16, pretrained=False))
    model = method.build_model()
    rates = {"new": 0.01, "aspp": 0.01, "old": 1e-6, "backbone": 1e-3}

    found = method.param_groups(model, Rates(**rates))
    assert [(g["name"], g["lr"], len(g["params"])) for g in found] == [
        ("new_head", 0.01, 3),
        ("unknown_head", 0.01, 3),
        ("background_head", 1e-6, 3),
    ]
    method.train_mode(model)
    assert not any(m.training for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    assert all(m.training for m in model.modules() if isinstance(m, nn.Dropout))  # Q7


def test_the_loss_uses_saliency():
    method = SSULConfig().build(Step(0, ((1, 2),)), NetworkConfig(pretrained=False))
    logits = torch.zeros(1, 4, 4, 4)
    label, saliency = torch.zeros(1, 4, 4, dtype=torch.long), torch.zeros(1, 4, 4, dtype=torch.uint8)
    logits[:, 0] = 5  # sure of the unknown everywhere
    batch = Batch(torch.zeros(1, 3, 4, 4), label, {"saliency": saliency})
    plain = method.loss(UnknownOutput(logits), None, batch)["bce"].value
    salient = method.loss(UnknownOutput(logits), None, batch._replace(extras={"saliency": saliency + 1}))["bce"].value
    assert float(salient) < float(plain)


@pytest.mark.parametrize("file", [f for f in files("labels") if "memory_shifted" in np.load(DATA / f"ssul/{f}.npz")])
def test_labels_of_the_memory(file, golden):
    """Kept images get labels of all classes so far, and the unknown as all others; as released on request (Q1)."""
    g = golden(f"ssul/{file}.npz")
    settings = arguments(g)
    plan = TaskPlan.parse(settings["task"], 20 if settings["dataset"] == "voc" else 150)
    step = plan[settings["step"]]
    label = torch.from_numpy(plan.train_lut(step, JOINT)[g["gt"]].astype(np.int64))
    extras = {"memory": torch.ones(len(label), dtype=torch.bool)}
    if "saliency" in g:
        extras["saliency"] = torch.from_numpy(g["saliency"])
    batch = Batch(torch.zeros(len(label), 3, 1, 1), label, extras)
    for name, config in {"shifted": SSULMConfig(), "released": SSULMConfig(shift_memory=False)}.items():
        method = config.build(step, NetworkConfig(pretrained=False))
        np.testing.assert_array_equal(method.private_labels(batch), g[f"memory_{name}"])
    mixed = batch._replace(extras={**extras, "memory": torch.zeros(len(label), dtype=torch.bool)})
    np.testing.assert_array_equal(method.private_labels(mixed), g["memory_shifted"])


@pytest.mark.parametrize("file", files("memory"))
def test_choice_of_the_memory(file, golden):
    """Every step's memory, one after the other, down to the order of both shuffles."""
    g = golden(f"ssul/{file}.npz")
    expected = json.loads((DATA / f"ssul/{file}_expected.json").read_text("utf-8"))
    plan = TaskPlan.parse(expected["task"], 20 if expected["dataset"] == "voc" else 150)
    config = MemoryConfig(size=expected["mem_size"], unique=False)
    memory: list[Exemplar] = []
    for wanted in expected["steps"]:
        before = plan[wanted["step"] - 1]
        labels = shown_labels(g, before, config.threshold)
        names = expected["names"][str(before.index)]
        new = [Exemplar(n, channels_in(one)) for n, one in zip(names, labels, strict=True)]
        candidates = [*memory, *new]
        assert candidates == [record(r) for r in wanted["candidates"]]
        memory = draw_exemplars(candidates, before.num_seen, config, expected["numpy_seed"])
        assert memory == [record(r) for r in wanted["sampled"]]
        assert sorted(e.name for e in memory) == wanted["memory_list"]


def record(entry) -> Exemplar:
    """The official record; it counts 255 as a class (254 after the shift, Q12)."""
    return Exemplar(entry[0], tuple(c for c in entry[3] if c != 254))


def shown_labels(g, step: Step, threshold: float):
    """What the images of a step show, from their private labels and the network's logits."""
    private = torch.from_numpy(g[f"target_{step.index}"])
    label = torch.where(private == IGNORE, IGNORE, (private - 1).clamp(min=0))
    if step.index == 0:
        return label
    out = UnknownOutput(torch.from_numpy(g[f"logits_{step.index}"]))
    batch = Batch(torch.zeros(len(label), 3, 1, 1), label, {"saliency": (private == 0).to(torch.uint8)})
    return SSULMConfig().build(step, NetworkConfig(pretrained=False)).annotate(out, batch, threshold)


@pytest.mark.parametrize("file", files("mix"))
def test_half_of_a_batch_is_kept_images(file, golden):
    g = golden(f"ssul/{file}.npz")
    for name in ("images", "labels", "saliency"):
        mixed = replaced(list(g[name]), list(g[f"mem_{name}"]), g["index"])
        np.testing.assert_array_equal(np.stack(mixed), g[f"out_{name}"])
    assert len(g["index"]) == len(g["images"]) // 2
