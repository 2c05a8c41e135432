"""What every method must keep in a whole run: a stopped run resumes to the same weights."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from barm.api import fit
from barm.engine.checkpoint.directory import CARRIED, RunDirectory
from barm.engine.monitor import Monitor
from barm.errors import Stopped
from barm.labels import TaskPlan
from barm.methods import METHODS
from barm.models.segmenter import NetworkConfig


def weights(out: Path) -> list[bytes]:
    return [(RunDirectory(out).step_path(i) / "model.safetensors").read_bytes() for i in range(2)]


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_stopped_run_resumes_to_the_same_weights(name, tiny, tmp_path, monkeypatch):
    config = tiny(name, "3-1", "base.epochs=1", "increment.epochs=3", "method.name=" + name)
    fit(config, out=tmp_path / "whole", quiet=True)

    show = Monitor.progress

    def stop(self: Monitor, iteration: int, *rest) -> None:
        show(self, iteration, *rest)
        if self.step == 1 and iteration == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Monitor, "progress", stop)
        with pytest.raises(Stopped):
            fit(config, out=tmp_path / "broken", quiet=True)
    assert RunDirectory(tmp_path / "broken").finished_steps() == [0]
    fit(config, out=tmp_path / "broken", resume=True, quiet=True)
    assert weights(tmp_path / "broken") == weights(tmp_path / "whole")


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


def gathering() -> list[str]:
    """The methods that take statistics after a step."""
    plan, network = TaskPlan.parse("2-1", 4), NetworkConfig(pretrained=False)
    return [name for name in sorted(METHODS) if METHODS[name](name=name).build(plan[0], network).gathers]


@pytest.mark.parametrize("name", gathering())
def test_statistics_that_were_stopped_are_taken_anew(name, tiny, tmp_path, monkeypatch):
    """A stop among their batches: the trained network is kept, and the resumed run ends in the same bits."""
    config = tiny(name, "3-1", "method.name=" + name)
    fit(config, out=tmp_path / "whole", quiet=True)

    kind = type(config.method.build(TaskPlan.parse("3-1", 4)[0], config.model))
    gather = kind.gather

    def stop(self, out, batch, sums) -> None:
        gather(self, out, batch, sums)
        if self.step.index == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(kind, "gather", stop)
        with pytest.raises(Stopped):
            fit(config, out=tmp_path / "broken", quiet=True)
    assert RunDirectory(tmp_path / "broken").finished_steps() == [0]
    fit(config, out=tmp_path / "broken", resume=True, quiet=True)
    assert weights(tmp_path / "broken") == weights(tmp_path / "whole")
    for step in range(2):
        one, two = (RunDirectory(tmp_path / run).step_path(step) / CARRIED for run in ("broken", "whole"))
        assert one.is_file() == two.is_file()
        assert not one.is_file() or one.read_bytes() == two.read_bytes()
