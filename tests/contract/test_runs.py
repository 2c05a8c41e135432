"""What every method must keep in a whole run: a stopped run resumes to the same weights."""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from barm.api import fit
from barm.engine.checkpoint.directory import RunDirectory
from barm.engine.monitor import Monitor
from barm.errors import Stopped
from barm.labels import TaskPlan
from barm.methods import METHODS
from barm.models import checkpointing
from barm.models.segmenter import NetworkConfig


def weights(out: Path) -> list[bytes]:
    return [(RunDirectory(out).step_path(i) / "model.safetensors").read_bytes() for i in range(2)]


PLAN = TaskPlan.parse("3-1", 4)


def made(name: str, step: int):
    """The method at a step."""
    return METHODS[name](name=name).build(PLAN[step], NetworkConfig(pretrained=False))


def end() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def stopped_and_whole(config, last, tmp_path, monkeypatch) -> tuple[list[bytes], list[bytes]]:
    """Weights of a run that was stopped at the third update of step `last` and resumed, and of one trained at once."""
    fit(config, out=tmp_path / "whole", quiet=True)

    show = Monitor.progress

    def stop(self: Monitor, iteration: int, *rest) -> None:
        show(self, iteration, *rest)
        if self.step == last and iteration == 2:
            end()

    with monkeypatch.context() as patch:
        patch.setattr(Monitor, "progress", stop)
        with pytest.raises(Stopped):
            fit(config, out=tmp_path / "broken", quiet=True)
    assert RunDirectory(tmp_path / "broken").finished_steps() == list(range(last))
    fit(config, out=tmp_path / "broken", resume=True, quiet=True)
    return weights(tmp_path / "broken"), weights(tmp_path / "whole")


@pytest.mark.others("dft", "dkd", "finetune", "ilt", "joint", "lwf", "mib", "plop-ewf", "ssul", "star")
@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_stopped_run_resumes_to_the_same_weights(name, tiny, tmp_path, monkeypatch):
    config = tiny(name, "3-1", "base.epochs=1", "increment.epochs=3", "method.name=" + name)
    resumed, whole = stopped_and_whole(config, 1 if made(name, 1).trains else 0, tmp_path, monkeypatch)
    assert resumed == whole


def test_a_stopped_run_of_barm_with_its_switches(tiny, tmp_path, monkeypatch):
    switches = (
        "method.pseudo_share=0.8",
        "method.class_balance=0.5",
        "method.residual=own",
        "method.warm_start.alone=0.5",
    )
    config = tiny("barm", "3-1", "base.epochs=1", "increment.epochs=3", *switches)
    resumed, whole = stopped_and_whole(config, 1, tmp_path, monkeypatch)
    assert resumed == whole


@pytest.mark.parametrize(
    ("name", "precision"), [("barm", "32-true"), ("barm", "bf16-mixed"), ("plop", "32-true"), ("rcil", "32-true")]
)
def test_gradient_checkpointing_changes_no_bit(name, precision, tiny, tmp_path, monkeypatch):
    """Weights and running statistics of both steps; PLOP reads activations within the blocks, RCIL draws branches."""
    calls: list[object] = []
    spy = lambda *given, **options: (calls.append(given), checkpoint(*given, **options))[1]  # noqa: E731
    monkeypatch.setattr(checkpointing, "checkpoint", spy)
    for switch in ("false", "true"):
        words = (f"runtime.gradient_checkpointing={switch}", f"runtime.precision={precision}")
        assert not calls
        fit(tiny(name, "3-1", *words), out=tmp_path / switch, steps=[0, 1], quiet=True)
    assert len(calls) > 4
    assert weights(tmp_path / "true") == weights(tmp_path / "false")


@pytest.mark.parametrize("name", ["mib-ewf"])
def test_a_run_that_is_stopped_in_its_evaluation_changes_the_trained_weights_once(name, tiny, tmp_path, monkeypatch):
    config = tiny(name, "3-1", "base.epochs=1", "increment.epochs=1", "method.name=" + name)
    fit(config, out=tmp_path / "whole", quiet=True)
    show = Monitor.evaluation

    def stop(self: Monitor, step: int, total: int):
        if step == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return show(self, step, total)

    with monkeypatch.context() as patch:
        patch.setattr(Monitor, "evaluation", stop)
        with pytest.raises(Stopped):
            fit(config, out=tmp_path / "broken", quiet=True)
    fit(config, out=tmp_path / "broken", resume=True, quiet=True)
    assert weights(tmp_path / "broken") == weights(tmp_path / "whole")


@pytest.mark.parametrize("name", sorted(n for n in METHODS if made(n, 1).gathers))
def test_a_stop_while_statistics_are_gathered(name, tiny, tmp_path, monkeypatch):
    """At step 0, then at step 1; what is handed on is the same too."""
    config = tiny(name, "3-1", "method.name=" + name)
    fit(config, out=tmp_path / "whole", quiet=True)
    show = Monitor.gathering
    for step in range(2):

        @contextmanager
        def stop(self: Monitor, index: int, total: int, wanted=step):
            with show(self, index, total) as advance:
                yield lambda: (advance(), end()) if index == wanted else advance()

        with monkeypatch.context() as patch:
            patch.setattr(Monitor, "gathering", stop)
            with pytest.raises(Stopped):
                fit(config, out=tmp_path / "broken", resume=step > 0, quiet=True)
        assert RunDirectory(tmp_path / "broken").finished_steps() == list(range(step))
    fit(config, out=tmp_path / "broken", resume=True, quiet=True)
    assert weights(tmp_path / "broken") == weights(tmp_path / "whole")
    for step in range(2):
        whole, broken = (RunDirectory(tmp_path / n).load_carried(step) for n in ("whole", "broken"))
        assert whole.keys() == broken.keys()
        assert all(torch.equal(whole[key], broken[key]) for key in whole)
