"""On a GPU: every method's numbers are the processor's, every precision trains, real sizes fit (`make gpu`)."""

from __future__ import annotations

import copy
import csv
import math
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map

from barm.api import evaluate, fit
from barm.batch import Batch, total_loss
from barm.bench.cases import our_update
from barm.bench.run import setting_of
from barm.config import load_config
from barm.data.sources.shapes_disk import make_shapes
from barm.engine.checkpoint.directory import METRICS, RunDirectory
from barm.engine.config import RuntimeConfig
from barm.engine.graphs import GraphedNetwork
from barm.engine.runtime import Runtime
from barm.labels import TaskPlan
from barm.methods import METHODS
from barm.models.batch_norm import synchronised
from barm.models.segmenter import NetworkConfig
from barm.predict.model import load

pytestmark = pytest.mark.gpu

PLAN = TaskPlan.parse("2-1", 4)
SIDE = 97


def small(name: str, backbone: str = "test_resnet", **more: object) -> NetworkConfig:
    """A small network without dropout, whose random numbers are the device's own."""
    backbone = "test_resnet" if name in ("plop", "rcil") else backbone  # which want a residual network
    return NetworkConfig(backbone=backbone, channels=16, pretrained=False, dropout=0, **more)


def rows(path: Path, name: str) -> list[float]:
    """The logged values of a name, in order."""
    with (path / "log.csv").open() as file:
        return [float(row["value"]) for row in csv.DictReader(file) if row["name"] == name]


def apart(actual: Tensor, expected: Tensor) -> float:
    """Largest difference, relative to the largest expected value."""
    return float((actual.detach().cpu() - expected).abs().max()) / max(float(expected.abs().max()), 1e-12)


@pytest.fixture
def exact():
    """fp32 means fp32: no TF32."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("index", [0, 1, 2])
@pytest.mark.parametrize("name", sorted(METHODS))
def test_losses_gradients_and_labels(name, index):
    """Of the same outputs of the networks, which golden tests hold on a processor."""
    torch.manual_seed(index)
    config, network = METHODS[name](name=name), small(name)
    method = config.build(PLAN[index], network)
    image, label = torch.randn(2, 3, SIDE, SIDE), torch.randint(0, PLAN[index].num_seen, (2, SIDE, SIDE))
    if method.policy.supervision == "step" and index:
        label[label > 0] = PLAN[index].num_seen - 1
    label[:, :3] = 255
    with torch.no_grad():
        new = method.build_model().eval()(image)
        teacher = config.build(PLAN[index - 1], network).build_model().eval() if index else None
        old = teacher(image) if teacher is not None and method.uses_teacher else None

    def on(device: str) -> tuple[dict[str, float], list[Tensor], Tensor]:
        def move(x: Tensor) -> Tensor:
            return x.detach().to(device).requires_grad_(x.is_floating_point())

        inputs, given = tree_map(move, new), None if old is None else tree_map(lambda x: x.to(device), old)
        terms = method.loss(inputs, given, Batch(image.to(device), label.to(device), {}))
        total_loss(terms).backward()
        leaves = [x for x in tree_flatten(inputs)[0] if isinstance(x, Tensor)]
        grads = [torch.zeros_like(x) if x.grad is None else x.grad for x in leaves]
        with torch.no_grad():
            labels = method.predict(inputs, (SIDE, SIDE))
        return {n: float(t.value.detach()) for n, t in terms.items()}, grads, labels

    values, grads, labels = on("cpu")
    found, slopes, others = on("cuda")
    assert found == {name: pytest.approx(value, rel=2e-5, abs=1e-7) for name, value in values.items()}
    assert max(apart(b, a) for a, b in zip(grads, slopes, strict=True)) <= 2e-5
    assert float((others.cpu() != labels).float().mean()) <= 1e-4  # ties


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_run_is_the_processors(name, tiny, tmp_path):
    """All steps in fp32: the same losses while rounding has not grown, the same labels at the end."""
    words = ("model.dropout=0", "runtime.log_every=1", "runtime.deterministic=true")
    runs = [tmp_path / "theirs", tmp_path / "ours"]
    for run, device in zip(runs, ("cpu", "cuda"), strict=True):
        fit(tiny(name, "2-1", f"runtime.device={device}", *words), out=run, quiet=True)
    first, second = (rows(run, "loss") for run in runs)
    assert len(second) == len(first)
    assert second[:3] == pytest.approx(first[:3], rel=1e-3)
    assert second == pytest.approx(first, rel=0.15)
    stored, found = RunDirectory(runs[1]), evaluate(runs[1], quiet=True)
    assert found["overall_accuracy"] == pytest.approx(stored.read(2, METRICS)["overall_accuracy"], abs=1e-3)


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
@pytest.mark.parametrize("name", sorted(METHODS))
def test_low_precision(name, precision, tiny, tmp_path):
    words = (f"runtime.precision={precision}", "runtime.device=cuda", "runtime.log_every=1")
    fit(tiny(name, "2-1", *words), out=tmp_path / "run", quiet=True)
    assert RunDirectory(tmp_path / "run").finished_steps() == [0, 1, 2]
    losses = rows(tmp_path / "run", "loss")
    assert losses
    assert all(math.isfinite(value) for value in losses)
    labels = load(tmp_path / "run").predict(np.zeros((40, 50, 3), np.uint8))
    assert labels.shape == (40, 50)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_graphs(name, tiny, tmp_path):
    """`runtime.cuda_graphs` changes no bit: dropout, running statistics and drawn branches are the same.

    Gradients of PLOP's features then have another memory layout, for which other algorithms are chosen.
    """
    words = ("runtime.log_every=1", "runtime.device=cuda", "runtime.deterministic=true", "runtime.precision=bf16-mixed")
    for graphs in ("true", "false"):
        fit(tiny(name, "2-1", f"runtime.cuda_graphs={graphs}", *words), out=tmp_path / graphs, quiet=True)
    first, second = (rows(tmp_path / graphs, "loss") for graphs in ("true", "false"))
    assert first == (pytest.approx(second, rel=5e-2) if name.startswith("plop") else second)


def test_graphs_are_used(monkeypatch):
    """Both networks are recorded and replayed."""
    setting = setting_of("test_resnet", "2-1", 4, 1, 2, 65, "cuda", "bf16-mixed")
    replays, replay = [], torch.cuda.CUDAGraph.replay
    monkeypatch.setattr(torch.cuda.CUDAGraph, "replay", lambda graph: (replays.append(graph), replay(graph))[1])
    work = our_update(setting)
    for _ in range(3):
        work()
    assert len(replays) == 9
    assert len(set(map(id, replays))) == 3


def test_with_gradient_checkpointing_nothing_is_recorded(tiny, tmp_path, monkeypatch):
    """Neither network; the losses are those of the same kernels without it."""
    replays, replay = [], torch.cuda.CUDAGraph.replay
    monkeypatch.setattr(torch.cuda.CUDAGraph, "replay", lambda graph: (replays.append(graph), replay(graph))[1])
    words = ("runtime.log_every=1", "runtime.device=cuda", "runtime.deterministic=true", "runtime.precision=bf16-mixed")
    for name, more in {"plain": "runtime.cuda_graphs=false", "again": "runtime.gradient_checkpointing=true"}.items():
        fit(tiny("barm", "2-1", more, *words), out=tmp_path / name, quiet=True)
    assert not replays
    assert rows(tmp_path / "again", "loss") == rows(tmp_path / "plain", "loss")


def test_graphs_beside_a_thread_that_pins_memory(tiny, tmp_path):
    """The loader's does while the first update is recorded; here another one does nothing else."""
    stop, faults = threading.Event(), []

    def pin() -> None:
        size = 1
        while not stop.is_set():
            size += 1
            try:
                torch.empty(size, 4096).pin_memory()
            except RuntimeError as error:
                faults.append(error)

    thread = threading.Thread(target=pin)
    thread.start()
    try:
        words = ("runtime.log_every=1", "runtime.device=cuda", "runtime.workers=2", "runtime.deterministic=true")
        fit(tiny("barm", "2-1", *words), out=tmp_path / "run", quiet=True)
    finally:
        stop.set()
        thread.join()
    assert faults == []
    assert RunDirectory(tmp_path / "run").finished_steps() == [0, 1, 2]


class Reads(nn.Module):
    """A network that reads a value back."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1)

    def forward(self, image: Tensor) -> Tensor:
        out = self.conv(image.float())
        return out * 2 if out.sum().item() > 1e9 else out


def test_a_network_that_cannot_be_recorded():
    network, image = Reads().cuda(), torch.randn(2, 3, 8, 8).cuda()
    graphed = GraphedNetwork(network, None, torch.cuda.graph_pool_handle())
    expected = network(image)
    with pytest.warns(UserWarning, match="cannot be recorded"):
        first = graphed(image)
    for out in (first, graphed(image)):
        assert torch.equal(out, expected)
        out.sum().backward()
    torch.cuda.synchronize()


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(METHODS))
def test_compiled(name, tiny, tmp_path):
    """`runtime.compile` changes speed alone."""
    words = ("model.dropout=0", "runtime.log_every=1", "runtime.device=cuda")
    for compiled in ("false", "true"):
        config = tiny(name, "2-1", f"runtime.compile={compiled}", *words)
        fit(config, out=tmp_path / compiled, steps=[0, 1], quiet=True)
    first, second = (rows(tmp_path / compiled, "loss") for compiled in ("false", "true"))
    assert second[:3] == pytest.approx(first[:3], rel=1e-3)
    assert second == pytest.approx(first, rel=0.05)
    assert load(tmp_path / "true").class_names == load(tmp_path / "false").class_names


@pytest.mark.parametrize("backbone", ["test_resnet", "test_efficientnet"])
def test_a_constant_network(backbone):
    """Folded, in the type of the precision: the logits of the network in fp32."""
    network = METHODS["barm"](name="barm").build(PLAN[1], small("barm", backbone)).build_model().eval()
    image = torch.randn(2, 3, SIDE, SIDE)
    with torch.no_grad():
        expected = torch.cat(network(image).heads, 1)
    for precision, tolerance in (("32-true", 1e-4), ("bf16-mixed", 3e-2), ("16-mixed", 5e-3)):
        rt = Runtime(RuntimeConfig(device="cuda", precision=precision))
        out = rt.constant(copy.deepcopy(network))(image.to(rt.device))
        assert out.heads[0].dtype == torch.float32
        assert apart(torch.cat(out.heads, 1), expected) <= tolerance, precision


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("backbone", ["test_resnet", "test_efficientnet"])
def test_shared_statistics_are_those_of_both_batches(backbone, monkeypatch):
    """One process that pretends to be two of one batch: what one process makes of the batch taken twice."""
    network = METHODS["barm"](name="barm").build(PLAN[0], small("barm", backbone)).build_model().cuda().train()
    shared, image = synchronised(copy.deepcopy(network)), torch.randn(2, 3, SIDE, SIDE).cuda()

    def gather(parts: list[Tensor], mine: Tensor, *args: object, **more: object) -> None:
        for part in parts:
            part.copy_(mine)

    group = SimpleNamespace(WORLD=SimpleNamespace(_get_backend_name=lambda: "gloo"))
    pretended = {
        "is_initialized": lambda: True,
        "get_world_size": lambda *_: 2,
        "group": group,
        "all_gather": gather,
        "all_reduce": lambda tensor, *args, **more: tensor.mul_(2),
    }
    with monkeypatch.context() as patch:
        for name, value in pretended.items():
            patch.setattr(torch.distributed, name, value)
        out = torch.cat(shared(image).heads, 1)
        out.square().sum().backward()
    whole = torch.cat(network(torch.cat([image, image])).heads, 1)
    whole.square().sum().backward()
    assert apart(out, whole[:2].detach().cpu()) <= 1e-4
    both = zip(network.parameters(), shared.parameters(), strict=True)
    pairs = [(a.grad.cpu(), 2 * b.grad.cpu()) for a, b in both if a.grad is not None]
    largest = max(float(one.abs().max()) for one, _ in pairs)
    assert max(float((two - one).abs().max()) for one, two in pairs) <= 1e-3 * largest
    for (key, one), two in zip(network.named_buffers(), shared.buffers(), strict=True):
        assert float((two.float() - one.float()).abs().max()) <= 1e-4 * max(float(one.abs().max()), 1e-3), key
    assert any(isinstance(m, nn.SyncBatchNorm) for m in shared.modules())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layout", "task", "batch", "terms"),
    [
        ("voc", "15-1", 16, {"pb_bce", "bga_triplet", "bfd", "gkd", "bga_bce"}),
        ("ade", "100-10", 8, {"pb_bce", "bga_triplet", "bfd", "gkd", "bga_bce"}),
    ],
)
def test_real_size_steps(layout, task, batch, terms, tmp_path):
    """The paper's network on images of 500 x 375, step 0 and step 1, in bf16."""
    root = tmp_path / "data"
    make_shapes(root, layout=layout, num_classes=None, num_train=8 * batch, num_val=8, size=(500, 375), seed=1)
    settings = [
        "model.pretrained=false",
        "base.epochs=1",
        "increment.epochs=1",
        f"base.batch_size={batch // 2}",
        f"increment.batch_size={batch // 2}",
        "runtime.device=cuda",
        "runtime.precision=bf16-mixed",
        "runtime.workers=4",
    ]
    config = load_config(f"{layout}/{task}/barm", settings, {"data": {"root": str(root)}})
    metrics = fit(config, out=tmp_path / "run", steps=[0, 1], quiet=True)

    assert RunDirectory(tmp_path / "run").finished_steps() == [0, 1]
    assert [m["step"] for m in metrics] == [0, 1]
    with (tmp_path / "run/log.csv").open() as file:
        logged = [(int(r["step"]), r["name"], float(r["value"])) for r in csv.DictReader(file)]
    assert all(math.isfinite(value) for _, _, value in logged)
    assert {name for step, name, _ in logged if step == 1} == terms | {"loss", "lr", "images_per_second", "memory_mb"}
