"""`runtime.compile` changes speed alone, for every method."""

from __future__ import annotations

import csv
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from barm.api import fit
from barm.engine.checkpoint.directory import RunDirectory
from barm.engine.config import RuntimeConfig
from barm.engine.runtime import Runtime
from barm.methods import METHODS


def losses(path: Path) -> list[float]:
    with (path / "log.csv").open() as file:
        return [float(row["value"]) for row in csv.DictReader(file) if row["name"] == "loss"]


def both_ways(name: str, tiny, out: Path, *more: str) -> tuple[Path, Path]:
    """Runs of two steps without and with compilation."""
    words = (*more, "model.dropout=0", "runtime.log_every=1", "runtime.device=cpu", "runtime.precision=32-true")
    for compiled in ("false", "true"):
        fit(tiny(name, "2-1", f"runtime.compile={compiled}", *words), out=out / compiled, steps=[0, 1], quiet=True)
    return out / "false", out / "true"


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(METHODS))
@pytest.mark.others(
    *("dft", "dkd", "dkd-m", "finetune", "ilt", "joint", "lwf"),
    *("mib-ewf", "plop", "plop-ewf", "ssul", "ssul-m", "star-m"),
)
def test_the_captured_network_is_the_network(name, tiny, tmp_path, monkeypatch):
    """torch's graphs without its compiler: the same operations."""
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, _given: list[torch.Tensor]) -> object:
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    plain, compiled = both_ways(name, tiny, tmp_path)
    assert sum(len(graph.graph.nodes) for graph in graphs) > 100
    assert losses(compiled) == losses(plain)
    assert RunDirectory(compiled).read(1, "metrics.json")["miou"] == RunDirectory(plain).read(1, "metrics.json")["miou"]


@pytest.mark.parametrize("name", ["barm", "plop"])
def test_with_gradient_checkpointing_the_rest_is_captured(name, tiny, tmp_path, monkeypatch):
    """The backbone runs as it is, and batch norm updates its statistics once."""
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, _given: list[torch.Tensor]) -> object:
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    plain, compiled = both_ways(name, tiny, tmp_path, "runtime.gradient_checkpointing=true")
    assert sum(len(graph.graph.nodes) for graph in graphs) > 100
    assert losses(compiled) == losses(plain)
    stored = [(RunDirectory(run).step_path(1) / "model.safetensors").read_bytes() for run in (plain, compiled)]
    assert stored[0] == stored[1]


def test_every_step_of_a_long_task_is_compiled(monkeypatch):
    """torch compiles one function for eight networks, and then leaves it as it is."""
    graphs: list[object] = []

    def backend(graph: torch.fx.GraphModule, _given: list[torch.Tensor]) -> object:
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    rt, image = Runtime(RuntimeConfig(device="cpu", precision="32-true", compile=True)), torch.randn(2, 3, 32, 32)
    for width in range(2, 13):
        network = nn.Sequential(nn.Conv2d(3, width, 1), nn.ReLU())
        wrapped, _ = rt.setup(network, torch.optim.SGD(network.parameters(), lr=0.1), trains_bn=True)
        wrapped(image)
        assert len(graphs) == width - 1


@pytest.mark.long
@pytest.mark.parametrize("name", ["barm", "plop", "rcil"])
@pytest.mark.skipif(shutil.which("c++") is None, reason="needs a compiler")
def test_the_compiled_network_is_the_network(name, tiny, tmp_path):
    plain, compiled = (losses(run) for run in both_ways(name, tiny, tmp_path))
    assert compiled[:3] == pytest.approx(plain[:3], rel=1e-4)
    assert compiled == pytest.approx(plain, rel=0.05)
