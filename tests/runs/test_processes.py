"""Two processes that torchrun starts train whole runs with trained batch norm, and what is stored is what holds."""

from __future__ import annotations

import csv
import json
import math
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from barm.api import evaluate
from barm.engine.checkpoint.directory import METRICS, RunDirectory
from barm.methods import METHODS
from forked import ended, ranks, script

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
WORKER = Path(__file__).with_name("sequence_worker.py")
RECIPES = sorted(METHODS)
LAST = "star-m"  # which the worker stops and resumes
OTHERS = pytest.mark.others("dft", "dkd", "finetune", "ilt", "joint", "lwf", "mib", "plop", "plop-ewf", "ssul", "star")


def torchrun(*words: object, cwd: Path) -> None:
    """Run a script in two processes; on failure what they said."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        launcher = ("torch.distributed.run", "--nproc_per_node=2", f"--master_port={free.getsockname()[1]}")
    command = [sys.executable, "-m", *launcher, *map(str, words)]
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def runs(request, shapes_voc, tiny_settings, tmp_path_factory):
    """Folder of the runs of the recipes that are tested; the processes are started once for all of them."""
    items = [item for item in request.session.items if item.path == request.path and hasattr(item, "callspec")]
    recipes = {item.callspec.params["name"] for item in items}
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BARM_CACHE", str(folder / "cache"))
        settings = [*tiny_settings, "base.epochs=2", "runtime.log_every=1"]
        torchrun(WORKER, folder, shapes_voc, json.dumps(settings), *sorted(recipes - {LAST}), LAST, cwd=folder)
    return folder


@OTHERS
@pytest.mark.parametrize("name", RECIPES)
def test_both_train_the_same_network(name, runs):
    """Gradients are averaged: the weights of both processes agree to the last bit, and they have moved."""
    steps = RunDirectory(runs / "0" / name).finished_steps()
    assert steps == [0, 1, 2]
    for step in steps:
        first, second = (torch.load(runs / f"{name}-{step}-{rank}.pt", weights_only=True) for rank in range(2))
        assert first.keys() == second.keys()
        assert all(torch.equal(first[name], second[name]) for name in first)
        stored = RunDirectory(runs / "0" / name).load_model_state(step)
        assert all(torch.equal(stored[name], first[name]) for name in first)
    with (runs / "0" / name / "log.csv").open() as file:
        losses = [(int(row["step"]), float(row["value"])) for row in csv.DictReader(file) if row["name"] == "loss"]
    assert {step for step, _ in losses} == ({0} if name == "segacil" else {0, 1, 2})  # which has no later updates
    assert all(math.isfinite(value) for _, value in losses)
    variances = [v for n, v in RunDirectory(runs / "0" / name).load_model_state(0).items() if "running_var" in n]
    assert any(not torch.equal(v, torch.ones_like(v)) for v in variances)  # batch norm was trained


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_two_gpus(shapes_voc, tiny_settings, tmp_path, monkeypatch):
    """Batch norm is shared there, and evaluated, stored and handed on as an ordinary one."""
    monkeypatch.setenv("BARM_CACHE", str(tmp_path / "cache"))
    settings = [*tiny_settings, "runtime.log_every=1", "runtime.device=cuda"]
    torchrun(WORKER, tmp_path, shapes_voc, json.dumps(settings), *RECIPES, cwd=tmp_path)
    for recipe in RECIPES:
        directory = RunDirectory(tmp_path / "0" / recipe)
        for step in range(3):
            first, second = (torch.load(tmp_path / f"{recipe}-{step}-{r}.pt", weights_only=True) for r in range(2))
            assert all(torch.equal(first[name], second[name]) for name in first), (recipe, step)
            stored, found = directory.read(step, METRICS), evaluate(directory.path, step, quiet=True)
            assert found["overall_accuracy"] == pytest.approx(stored["overall_accuracy"], abs=1e-3), (recipe, step)


@OTHERS
@pytest.mark.parametrize("name", RECIPES)
def test_the_folder_is_read_where_it_is_written(name, runs):
    """The second process has seen nothing of the run on its disk, and found the same."""
    assert not (runs / "1").exists()
    first, second = (json.loads((runs / f"{name}-{rank}.json").read_text()) for rank in range(2))
    assert len(first) == 3
    assert first == second == [RunDirectory(runs / "0" / name).read(step, METRICS) for step in range(3)]


@OTHERS
@pytest.mark.parametrize("name", RECIPES)
def test_what_is_stored_is_what_one_process_measures(name, runs):
    directory = RunDirectory(runs / "0" / name)
    for step in directory.finished_steps():
        assert evaluate(directory.path, step, quiet=True) == directory.read(step, METRICS)


def test_a_stopped_run_goes_on_in_both(runs):
    """Stopped by a signal to the second process, and gone on with from what the first one has saved."""
    whole, stopped = (RunDirectory(runs / "0" / name) for name in (LAST, "stopped"))
    for step in range(3):
        one, two = (directory.load_model_state(step) for directory in (whole, stopped))
        assert all(torch.equal(one[name], two[name]) for name in one)
        assert whole.read(step, METRICS) == stopped.read(step, METRICS)


def test_the_published_sequence(shapes_voc, tmp_path, monkeypatch):
    """Both published commands, batch norm trained at step 0; small images and a small network."""
    monkeypatch.setenv("BARM_CACHE", str(tmp_path / "cache"))
    words = (
        f"--data_root {shapes_voc} --model deeplabv3bga_mobilenet --crop_val --lr 0.001 --batch_size 4 --train_epoch 1 "
        "--loss_type bce_loss --dataset voc --task 2-1 --lr_policy poly --pseudo --pseudo_thresh 0.7 --bn_freeze --amp "
        "--subpath BARM --overlap --crop_size 48 --backbone_weights none"
    ).split()
    for step in ((0, "--initial"), (1,)):
        statuses, errors = ended(ranks(script(ROOT / "train.py", *words, "--curr_step", *step), tmp_path))
        assert statuses == [0, 0], errors
    directory = RunDirectory(tmp_path / "checkpoints/BARM/2-1/overlap/run")
    assert directory.finished_steps() == [0, 1, 2]
    for step in directory.finished_steps():
        assert list((tmp_path / f"checkpoints/BARM/2-1/overlap/step{step}").glob("*.pth"))
        assert evaluate(directory.path, step, quiet=True) == directory.read(step, METRICS)
