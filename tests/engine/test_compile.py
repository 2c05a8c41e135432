"""`runtime.compile` changes speed alone, for every method."""

from __future__ import annotations

import csv
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch

from barm.api import fit
from barm.engine.checkpoint.directory import RunDirectory
from barm.methods import METHODS


def losses(path: Path) -> list[float]:
    with (path / "log.csv").open() as file:
        return [float(row["value"]) for row in csv.DictReader(file) if row["name"] == "loss"]


def both_ways(name: str, tiny, out: Path) -> tuple[Path, Path]:
    """Runs of two steps without and with compilation."""
    words = ("model.dropout=0", "runtime.log_every=1", "runtime.device=cpu", "runtime.precision=32-true")
    for compiled in ("false", "true"):
        fit(tiny(name, "2-1", f"runtime.compile={compiled}", *words), out=out / compiled, steps=[0, 1], quiet=True)
    return out / "false", out / "true"


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(METHODS))
@pytest.mark.others("dft", "dkd-m", "finetune", "ilt", "lwf", "mib-ewf", "plop-ewf", "ssul-m", "star-m")
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


@pytest.mark.long
@pytest.mark.parametrize("name", ["barm", "plop", "rcil"])
@pytest.mark.skipif(shutil.which("c++") is None, reason="needs a compiler")
def test_the_compiled_network_is_the_network(name, tiny, tmp_path):
    plain, compiled = (losses(run) for run in both_ways(name, tiny, tmp_path))
    assert compiled[:3] == pytest.approx(plain[:3], rel=1e-4)
    assert compiled == pytest.approx(plain, rel=0.05)
