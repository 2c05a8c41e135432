"""What a method does after the training: its statistics, the state that it hands on, steps without updates."""

from __future__ import annotations

import os
import shutil
import signal
from typing import Literal

import pytest
import torch

from barm.api import fit
from barm.engine.checkpoint.directory import CARRIED, RunDirectory
from barm.engine.monitor import Monitor
from barm.errors import Stopped, UserError
from barm.methods import METHODS
from barm.methods.mib import MiB, MiBConfig
from editing import unchecked


class CountingConfig(MiBConfig):
    name: Literal["counting"] = "counting"  # type: ignore[assignment]

    def build(self, step, network):
        return Counting(self, step, network)


class Counting(MiB):
    """Counts pixels by class after every step, hands the counts on, and writes them into the newest bias."""

    gathers = carries = True

    def __init__(self, config, step, network) -> None:
        super().__init__(config, step, network)
        self.earlier, self.counts = None, None

    @property
    def trains(self) -> bool:
        return self.step.index != 2

    def take_over(self, state) -> None:
        if "counts" not in state:
            raise UserError("the step before has no counts")
        self.earlier = state["counts"]

    def start_sums(self, device):
        return {"counts": torch.zeros(256, dtype=torch.int64, device=device)}

    def gather(self, out, batch, sums) -> None:
        assert out.logits.dtype == torch.float32
        sums["counts"] += torch.bincount(batch.label.flatten(), minlength=256)

    def gathered(self, model, sums) -> None:
        self.counts = sums["counts"] + (0 if self.earlier is None else self.earlier)
        with torch.no_grad():
            model.classifier.head[-1].bias.fill_(float(self.counts.sum()))

    def hand_on(self):
        return {"counts": self.counts}


@pytest.fixture(autouse=True)
def _the_method_is_known(monkeypatch):
    monkeypatch.setitem(METHODS, "counting", CountingConfig)


@pytest.fixture
def config(tiny):
    return tiny("mib", "1-1", "base.epochs=1", "increment.epochs=1", "method.name=counting")


def total(run: RunDirectory, step: int) -> int:
    return int(run.load_carried(step)["counts"].sum())


def test_statistics_are_handed_on_and_a_step_need_not_train(config, tmp_path):
    fit(config, out=tmp_path / "run", quiet=True)
    run = RunDirectory(tmp_path / "run")
    crop = config.base.side**2
    assert total(run, 0) % crop == 0
    assert total(run, 0) < total(run, 1) < total(run, 2)
    for step in range(3):
        state = run.load_model_state(step)
        assert float(state[f"classifier.head.{step}.bias"][0]) == total(run, step)
    first, second = run.load_model_state(1), run.load_model_state(2)
    assert all(torch.equal(first[n], second[n]) for n in first if n.startswith("backbone"))  # step 2 had no updates


@pytest.mark.parametrize("step", [0, 2])
def test_a_pass_that_is_stopped_is_done_again(step, config, tmp_path, monkeypatch):
    fit(config, out=tmp_path / "whole", quiet=True)
    show = Monitor.gathering

    def stop(self: Monitor, index: int, number: int):
        if index == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return show(self, index, number)

    with monkeypatch.context() as patch:
        patch.setattr(Monitor, "gathering", stop)
        with pytest.raises(Stopped):
            fit(config, out=tmp_path / "broken", quiet=True)
    assert not RunDirectory(tmp_path / "broken").is_complete(step)
    fit(config, out=tmp_path / "broken", resume=True, quiet=True)
    for name in ("model.safetensors", CARRIED):
        whole, broken = ((tmp_path / run / "step02" / name).read_bytes() for run in ("whole", "broken"))
        assert whole == broken


def test_a_state_that_is_missing_or_damaged_is_one_line(config, tmp_path):
    fit(config, out=tmp_path / "run", quiet=True)
    shutil.rmtree(tmp_path / "run/step02")
    file = tmp_path / "run/step01" / CARRIED
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"state\.safetensors is damaged"):
        fit(config, out=tmp_path / "run", resume=True, quiet=True)
    file.unlink()
    with pytest.raises(UserError, match=r"state\.safetensors is damaged \(it is missing\)"):
        fit(config, out=tmp_path / "run", resume=True, quiet=True)
    unchecked(file)
    with pytest.raises(UserError, match="the step before has no counts"):
        fit(config, out=tmp_path / "run", resume=True, quiet=True)
