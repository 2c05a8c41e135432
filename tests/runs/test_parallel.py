"""Two processes with batch b do what one process does with batch 2b."""

from __future__ import annotations

import json
import runpy
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from barm.engine.checkpoint.directory import METRICS, RunDirectory
from barm.labels import TaskPlan
from barm.methods import METHODS, star
from barm.models.segmenter import NetworkConfig
from forked import Forked, command, ended, ranks, script

WORKER = Path(__file__).with_name("parallel_worker.py")
STATISTICS_WORKER = Path(__file__).with_name("statistics_worker.py")


def launch(world: int, *words: object) -> None:
    """Run the worker in `world` processes."""
    run = script(WORKER, *words)
    statuses, errors = ended(ranks(run) if world > 1 else [Forked(run)])
    assert statuses == [0] * world, errors


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path):
    """Every method; the processes are started once for all of them, since starting takes the time."""
    cases = ["barm:equal", "barm:frozen", *(f"{name}:unequal" for name in sorted(METHODS))]
    if find_spec("peft") is not None:
        cases.append("barm:lora")
    for world in (1, 2):
        (tmp_path / str(world)).mkdir()
        launch(world, tmp_path / str(world), *cases)
    for case in cases:
        one, two = (torch.load(tmp_path / f"{n}/{case.replace(':', '-')}.pt", weights_only=True) for n in (1, 2))
        compare(case, one, two)


def compare(case, one, two):
    name = case.split(":")[0]
    assert one["values"] == pytest.approx(two["values"], rel=1e-5), case
    assert one["method"].keys() == two["method"].keys(), case
    assert bool(one["method"]) == METHODS[name]().build(TaskPlan.parse("2-1", 4)[1], NetworkConfig()).calibrates, case
    for key, expected in one["method"].items():
        assert torch.equal(two["method"][key], expected), (case, key)
    for key, expected in one["model"].items():
        largest = float(expected.abs().max()) if expected.numel() else 0.0
        found = float((two["model"][key].double() - expected.double()).abs().max())
        assert found <= 1e-5 * max(largest, 1e-12), (case, key)


@pytest.fixture(scope="module")
def statistics_runs(shapes_voc, tiny_settings, tmp_path_factory):
    """Folder of the runs of one process, this one, and of two, which are started once for all methods."""
    folder = tmp_path_factory.mktemp("statistics")
    words = (str(folder), str(shapes_voc), json.dumps(tiny_settings))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BARM_CACHE", str(folder / "cache"))
        patch.setattr(star, "drawn_features", star.drawn_features)  # which the worker replaces
        runpy.run_path(str(STATISTICS_WORKER))["main"](*words, "1")
        statuses, errors = ended(ranks(script(STATISTICS_WORKER, *words, "2")))
    assert statuses == [0, 0], errors
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("name", "exact"), [("star", 1e-6), ("segacil", 1e-9)])
def test_whole_runs_with_statistics_are_equal(name, exact, statistics_runs):
    """Of two processes and of one, from the same first step: weights, and the sums that go from step to step."""
    one, two = (RunDirectory(statistics_runs / world / name) for world in ("1", "2"))
    for step in range(3):
        for read, most in (("load_model_state", 1e-6), ("load_carried", exact)):
            expected, found = (getattr(run, read)(step) for run in (one, two))
            assert expected.keys() == found.keys()
            for key, value in expected.items():
                largest = float(value.abs().max()) if value.numel() else 0.0
                assert torch.allclose(found[key], value, rtol=0, atol=most * largest), (step, key)
        assert two.read(step, METRICS)["miou"] == pytest.approx(one.read(step, METRICS)["miou"], abs=1e-3)


@pytest.mark.slow
def test_bad_input_ends_all_processes(shapes_voc, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/something").touch()
    sizes = [word for key in ("base", "increment", "evaluation") for word in ("--set", f"{key}.crop=48")]
    words = ("train", "--recipe", "shapes/2-1/barm", "--data", shapes_voc, *sizes, "--out")
    for path, says in (("run", "exists already"), ("new", "unknown backbone 'no_net'")):
        out, errors = ended(ranks(command(*words, tmp_path / path, "--set", "model.backbone=no_net")))
        assert out == [2, 2]
        assert errors[0].startswith("barm: ")
        assert says in errors[0]
        assert errors[0].count("\n") == 1
        assert errors[1] == ""
    assert not (tmp_path / "new").exists()
