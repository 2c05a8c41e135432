"""BARM against numbers of its official implementation: forward 1e-4, losses and gradients 1e-5, trajectories 1e-3."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from barm.batch import Batch, total_loss
from barm.engine.config import RuntimeConfig, StepRecipe
from barm.engine.runtime import Runtime, unwrap
from barm.engine.train import StepTrainer
from barm.labels import Step
from barm.methods.barm import BARMConfig
from barm.methods.groups import Rates
from barm.models.heads import GroupedOutput
from barm.models.segmenter import NetworkConfig

pytestmark = pytest.mark.usefixtures("both_ways")

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
R101 = NetworkConfig(pretrained=False)


@pytest.fixture(autouse=True)
def _exact_arithmetic():
    """fp32 means fp32: no TF32 on GPUs."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def step_of(group_sizes: np.ndarray) -> Step:
    """The step whose groups have these sizes, ids in natural order."""
    cuts = np.cumsum(group_sizes)
    return Step(len(cuts) - 2, tuple(tuple(range(a, b)) for a, b in pairwise(cuts)))


def assert_close(actual: torch.Tensor, expected: np.ndarray, tolerance: float) -> None:
    """Largest difference relative to the largest expected value."""
    assert np.abs(actual.detach().cpu().numpy() - expected).max() <= tolerance * np.abs(expected).max()


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("index", [0, 1, 3])
def test_forward(index, device, golden, fill):
    g = golden(f"barm/forward_r101_step{index}.npz")
    method = BARMConfig().build(step_of(g["group_sizes"]), R101)
    model = method.build_model().eval()
    fill(model)
    image = np.random.default_rng(int(g["input_seed"])).standard_normal(g["input_shape"]).astype(np.float32)
    with torch.no_grad():
        feature = model.to(device).classifier.aspp(model.backbone(torch.from_numpy(image).to(device)))
        out = model(torch.from_numpy(image).to(device))
    assert_close(out.logits, g["logits_eval"], 1e-4)
    assert_close(out.training_logits, g["logits_train"], 1e-4)
    assert_close(feature[:, ::16], g["aspp"], 1e-4)
    assert_close(out.branches.chunk(step_of(g["group_sizes"]).index + 1, dim=1)[-1][:, ::16], g["branch_last"], 1e-4)
    for t, head in enumerate(out.heads):
        assert_close(head, g[f"head{t}_eval"], 1e-4)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("case", ["10_1_step4", "15_1_step1", "5_3_step2"])
def test_losses_and_gradients(case, device, golden):
    g = golden(f"barm/loss_{case}.npz")
    step = step_of(g["group_sizes"])

    def tensors(kind: str, count: int, grad: bool) -> tuple[torch.Tensor, ...]:
        return tuple(torch.from_numpy(g[f"{kind}_{t}"]).to(device).requires_grad_(grad) for t in range(count))

    branches = tensors("student_branch", step.index + 1, True)
    new = GroupedOutput(tensors("student_head", step.index + 1, True), torch.cat(branches, dim=1))
    teacher_branches = torch.cat(tensors("teacher_branch", step.index, False), dim=1)
    old = GroupedOutput(tensors("teacher_head", step.index, False), teacher_branches)
    label = torch.from_numpy(g["labels"].astype(np.int64)).to(device)
    method = BARMConfig(pseudo_threshold=float(g["pseudo_threshold"])).build(step, R101)

    terms = method.loss(new, old, Batch(torch.empty(0), label, {}))
    for name, term in terms.items():
        assert float(term.value.detach()) / term.weight == pytest.approx(float(g[f"expected_{name}"]), rel=1e-5)
    total = total_loss(terms)
    assert float(total.detach()) == pytest.approx(float(g["expected_total"]), rel=1e-5)
    total.backward()
    for t in range(step.index + 1):
        for kind, tensor in (("head", new.heads[t]), ("branch", branches[t])):
            expected = g[f"expected_grad_student_{kind}_{t}"]
            actual = np.zeros_like(expected) if tensor.grad is None else tensor.grad.cpu().numpy()
            assert np.abs(actual - expected).max() <= 1e-5 * np.abs(expected).max()


def teacher_and_student(g, network: NetworkConfig, fill):
    """The networks of a trajectory's start, and the method."""
    scale, aspp_scale = float(g["head_weight_scale"]), float(g["aspp_project_bn_scale"])

    teacher = BARMConfig().build(step_of(g["group_sizes"][:-1]), network).build_model()
    method = BARMConfig().build(step_of(g["group_sizes"]), network)
    model = method.build_model()
    fill(teacher)
    fresh = method.build_model()
    fill(fresh)
    with torch.no_grad():
        teacher.classifier.head[0].weight *= scale
        teacher.classifier.aspp.project[1].weight *= aspp_scale
        teacher.classifier.aspp.project[1].bias *= aspp_scale
    method.init_from(model, teacher)
    with torch.no_grad():
        model.classifier.head[1].weight.copy_(fresh.classifier.head[1].weight * scale)
        model.classifier.head[1].bias.copy_(fresh.classifier.head[1].bias)
    return method, teacher, model


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
def test_trajectory(device, golden, fill):
    """In double precision: in single, one ReLU that rounding turns moves a layer by a thousandth."""
    g = golden("barm/trajectory_r101_15_1_step1.npz")
    network = NetworkConfig(pretrained=False, dropout=0)
    method, teacher, model = teacher_and_student(g, network, fill)
    teacher, model = teacher.double(), model.double()
    before = {name: value.clone() for name, value in model.state_dict().items()}

    lr = float(g["lr"])
    recipe = StepRecipe(epochs=1, batch_size=int(g["batch"]), lr=Rates(new=lr, aspp=1e-3, old=1e-4, backbone=1e-4))
    rt = Runtime(RuntimeConfig(device=device, precision="32-true", channels_last=False))
    trainer = StepTrainer(method, rt.place(model), rt.constant(teacher), recipe, int(g["total_iterations"]), rt, seed=1)
    for iteration, batch in enumerate(batches(g)):
        placed = Batch(batch.image.double().to(rt.device), batch.label.to(rt.device), {})
        values = trainer.update(placed).values
        weights = {"loss": 1.0, "pb_bce": 1.0, "bga_triplet": 5.0, "bfd": 4.0, "gkd": 1.0, "bga_bce": 1.0}
        plain = [values[name] / weights[name] for name in ("loss", *g["loss_names"][1:])]
        np.testing.assert_allclose(plain, g["expected_losses"][iteration], rtol=1e-3, atol=1e-9)

    after = unwrap(trainer.model).state_dict()
    assert [n for n in after if not n.endswith("num_batches_tracked")] == g["param_names"].tolist()
    for name, expected in zip(g["param_names"], g["expected_delta_norm"], strict=True):
        moved = float((after[name].cpu().double() - before[name].double()).norm())
        assert moved == pytest.approx(expected, rel=1e-3, abs=1e-9), name
    assert_close(after["classifier.head.1.weight"], g["expected_new_head_weight"], 1e-3)
    assert_close(after["classifier.ear.0.0.weight"][:4], g["expected_new_branch_conv"], 1e-3)
    rates = dict(
        zip(
            ("new_head", "new_ear", "aspp", "old_heads", "old_ears", "head_pre", "backbone"),
            g["final_lrs"],
            strict=True,
        )
    )
    for group in trainer.optimizer.param_groups:
        assert group["lr"] == pytest.approx(rates[group["name"]], rel=1e-6)


def batches(g):
    """The batches as the golden README draws them, checked against the labels that are stored."""
    rng = np.random.default_rng(int(g["seed"]))
    height, width = (int(v) for v in g["size"])
    count, channels, known = int(g["batch"]), int(g["group_sizes"].sum()), int(g["group_sizes"][:-1].sum())
    for stored in g["labels"]:
        image = rng.standard_normal((count, 3, height, width)).astype(np.float32)
        mask = rng.random((count, height // 8 + 1, width // 8 + 1)) < 0.4
        mask = mask.repeat(8, axis=1).repeat(8, axis=2)[:, :height, :width]
        label = np.zeros((count, height, width), np.int64)
        label[mask] = rng.integers(known, channels, int(mask.sum()))
        label[rng.random((count, height, width)) < 0.05] = 255
        np.testing.assert_array_equal(label, stored)
        yield Batch(torch.from_numpy(image), torch.from_numpy(label), {})
