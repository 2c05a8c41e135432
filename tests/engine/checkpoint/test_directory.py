"""The files of a run that was stopped or damaged: what does not fit is one line that names the file."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch

from barm.api import evaluate, fit
from barm.engine.checkpoint.directory import RunDirectory
from barm.engine.checkpoint.schema import misfit
from barm.engine.monitor import Monitor
from barm.errors import Stopped, UserError
from editing import unchecked


@pytest.fixture(scope="module")
def stopped(shapes_voc, tiny_settings, tmp_path_factory):
    """A run of PLOP, which has a state of its own, stopped in step 1."""
    out, show = tmp_path_factory.mktemp("stopped") / "run", Monitor.progress

    def stop(self: Monitor, iteration: int, *rest) -> None:
        show(self, iteration, *rest)
        if self.step == 1 and iteration == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BARM_CACHE", str(out.parent / "cache"))
        patch.setattr(Monitor, "progress", stop)
        with pytest.raises(Stopped):
            fit(
                "shapes/2-1/plop",
                data=shapes_voc,
                out=out,
                overrides=[*tiny_settings, "increment.epochs=3"],
                quiet=True,
            )
    return out


def first(table: dict) -> str:
    return next(iter(table))


CHANGES = {
    "no iteration": (lambda s: s.pop("iteration"), "'iteration' is missing"),
    "no model": (lambda s: s.pop("model"), "'model' is missing"),
    "no memory": (lambda s: s.pop("memory"), "'memory' is missing"),
    "iteration of text": (lambda s: s.update(iteration="1"), "'iteration' is missing or no int"),
    "another shape": (lambda s: s["model"].update({first(s["model"]): torch.zeros(7)}), r"is \(7,\), expected"),
    "a tensor less": (lambda s: s["model"].pop(first(s["model"])), "model lacks"),
    "a tensor more": (lambda s: s["model"].update(more=torch.zeros(1)), "model has besides more"),
    "a number for a tensor": (lambda s: s["model"].update({first(s["model"]): 3}), "is no tensor"),
    "another momentum": (
        lambda s: s["optimizer"]["state"][0].update(momentum_buffer=torch.zeros(7)),
        "momentum_buffer is",
    ),
    "no momentum": (lambda s: s["optimizer"]["state"][0].clear(), "optimizer.0 lacks momentum_buffer"),
    "no groups": (lambda s: s["optimizer"].pop("param_groups"), "groups are others"),
    "the method's state": (lambda s: s["method"].clear(), "method lacks thresholds"),
    "other thresholds": (lambda s: s["method"].update(thresholds=torch.zeros(99)), "method.thresholds is"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_state_that_does_not_fit(name, stopped, tmp_path):
    change, says = CHANGES[name]
    shutil.copytree(stopped, tmp_path / "run")
    path = tmp_path / "run/.step01.partial/trainer.pt"
    state = torch.load(path, weights_only=True)
    change(state)
    torch.save(state, path)
    run = RunDirectory(tmp_path / "run")
    with pytest.raises(UserError, match=f"trainer.pt is damaged .*{says}.*: remove") as found:
        fit(run.config(), out=run.path, resume=True, quiet=True, steps=[1])
    assert "\n" not in str(found.value)
    assert path.exists()
    assert run.finished_steps() == [0]


def test_more_updates_than_the_step_has(stopped, tmp_path):
    shutil.copytree(stopped, tmp_path / "run")
    path = tmp_path / "run/.step01.partial/trainer.pt"
    torch.save({**torch.load(path, weights_only=True), "iteration": 10**6}, path)
    run = RunDirectory(tmp_path / "run")
    with pytest.raises(UserError, match="state of step 1 has done 1000000 updates, but now the step has only 9 "):
        fit(run.config(), out=run.path, resume=True, quiet=True, steps=[1])
    assert run.finished_steps() == [0]


def test_the_sound_state_is_taken_up(stopped, tmp_path):
    shutil.copytree(stopped, tmp_path / "run")
    run = RunDirectory(tmp_path / "run")
    fit(run.config(), out=run.path, resume=True, quiet=True, steps=[1])
    assert run.finished_steps() == [0, 1]


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("counts.json", [[1, 0], [2, 3]], None),
        ("counts.json", [[1, -1], [2, 3]], "0.1"),
        ("counts.json", [[1, 0.5], [2, 3]], "0.1"),
        ("counts.json", [[10**30]], "0.0"),
        ("counts.json", {}, "list"),
        ("memory.json", [{"name": "a", "channels": [1]}], None),
        ("memory.json", [{"name": "a", "channels": [300]}], "0.channels.0"),
        ("extension.json", {"from": "x", "step": 1, "learned": ["a"]}, None),
        ("extension.json", {"from": "x", "step": 1}, "learned"),
        ("extension.json", {"from": "x", "step": 1, "learned": ["a"], "agreement": {"b": None, "c": 0.5}}, None),
        ("extension.json", {"from": "x", "step": 1, "learned": ["a"], "agreement": {"c": 2}}, "agreement.c"),
    ],
)
def test_forms(name, value, says):
    found = misfit(name, value)
    assert found is None if says is None else says in (found or "")


@pytest.mark.parametrize("channels", [10**9, 32, "x", -1])
def test_a_run_whose_network_is_described_wrongly(channels, tiny_run, tmp_path):
    """A billion channels are refused without asking for their memory."""
    shutil.copytree(tiny_run, tmp_path / "run")
    path = tmp_path / "run/step02/method.json"
    about = json.loads(path.read_text("utf-8"))
    about["model"]["channels"] = channels
    unchecked(path).write_text(json.dumps(about), "utf-8")
    with pytest.raises(UserError, match=r"8 EiB|does not fit|described wrongly") as found:
        evaluate(tmp_path / "run", quiet=True)
    assert "\n" not in str(found.value)


def test_a_pipe_beside_is_not_written_into(tiny_run, tmp_path):
    shutil.copytree(tiny_run, tmp_path / "run")
    os.mkfifo(tmp_path / "run/step02/counts.json.tmp")
    RunDirectory(tmp_path / "run").add(2, {"counts.json": [[1]]})
    assert RunDirectory(tmp_path / "run").read(2, "counts.json") == [[1]]
    assert Path(tmp_path / "run/step02/counts.json").is_file()
