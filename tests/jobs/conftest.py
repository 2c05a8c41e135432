"""Jobs with a stand-in for the training, and a stand-in for a SLURM cluster; all other processes are real.

The stand-in for ``python -m barm.jobs.train`` does what a run's orders say, and notes what happened in its events.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from barm.grid_file import GridConfig
from barm.jobs.control import cancel_grid, grid_status, submit_grid, wait_for_grid
from barm.jobs.plan import JobOptions, Places
from barm.jobs.states import RunState, RunView, read_state

pytest.importorskip("submitit")
TWO = JobOptions(jobs=2, gpus=0, cpus=3)

TRAINING = """
import sys
words = sys.orig_argv
if "submitit.core._submit" in words and __import__("os").environ.get("NOTHING_BEGINS"):
    sys.exit("no such library")
if "barm.jobs.train" in words:
    import json, os, pathlib, signal, threading, time
    out, name = pathlib.Path(words[-2]), words[-1]
    run = out / name
    run.mkdir(parents=True, exist_ok=True)
    def note(what):
        with (run / "events").open("a") as file:
            print(what, time.time(), os.environ["OMP_NUM_THREADS"], os.environ.get("CUDA_VISIBLE_DEVICES"), file=file)
    def stop(*_):
        note("saved")
        os._exit(143)
    def watch():
        os.read(0, 1)
        stop()
    signal.signal(signal.SIGTERM, stop)
    threading.Thread(target=watch, daemon=True).start()
    number = (run / "events").read_text().count("begin") if (run / "events").exists() else 0
    orders = json.loads((out / "orders.json").read_text()).get(name, []) if (out / "orders.json").exists() else []
    order = orders[number] if number < len(orders) else {}
    note("begin")
    time.sleep(order.get("before", 0))
    if order.get("start", True):
        (run / "step00").mkdir(exist_ok=True)
    time.sleep(order.get("seconds", 0.2))
    if "signal" in order:
        os.kill(os.getpid(), order["signal"])
    print(order.get("say", ""))
    note("end")
    sys.stdout.flush()
    os._exit(order.get("status", 0))
"""


@pytest.fixture
def training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that tests start train by orders."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(TRAINING)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'site'}{os.pathsep}{os.environ['PYTHONPATH']}")


class Folder:
    """A grid's folder, with runs that train by orders.

    Args:
        path: of the folder.
        data: the data set.
        settings: of tiny runs.
    """

    def __init__(self, path: Path, data: Path, settings: tuple[str, ...]) -> None:
        self.path, self.data, self.settings, self.places = path, data, settings, Places(path)

    def grid(self, *methods: str, **more: Any) -> GridConfig:
        """A grid of these methods."""
        return GridConfig(recipes="shapes", methods=methods, tasks=("3-1",), overrides=self.settings, **more)

    def order(self, **orders: list[dict[str, Any]]) -> None:
        """Say what the trainings of methods do, one after the other."""
        named = {f"3-1-overlap-s1/{method}": what for method, what in orders.items()}
        (self.path / "orders.json").write_text(json.dumps(named))

    def submit(self, *methods: str, options: JobOptions = TWO, **more: Any) -> dict[str, str]:
        """Start a grid of these methods; the states of its runs."""
        return statuses(submit_grid(self.grid(*methods, **more), self.path, self.data, options))

    def status(self) -> dict[str, str]:
        """The states of the runs by their methods."""
        return statuses(grid_status(self.path))

    def cancel(self) -> dict[str, str]:
        """Stop the runs; their states."""
        return statuses(cancel_grid(self.path))

    def wait(self) -> dict[str, str]:
        """Wait for the end; the states of the runs."""
        wait_for_grid(self.path, lambda _: None, "")
        return self.status()

    def run(self, method: str) -> RunView:
        """A run as it stands."""
        return next(view for view in grid_status(self.path) if view.run.method == method)

    def state(self, method: str) -> RunState:
        """What the job of a run says, once it trains."""
        self.until(lambda: self.events(method)[-1:] == ["begin"])
        state = read_state(self.places, f"3-1-overlap-s1/{method}")
        assert state is not None
        return state

    def events(self, method: str) -> list[str]:
        """What happened."""
        return [line.split(" ")[0] for line in self.lines(method)]

    def lines(self, method: str) -> list[str]:
        """What happened, when, and the threads and the GPU of the process."""
        path = self.path / f"3-1-overlap-s1/{method}/events"
        return path.read_text().splitlines() if path.exists() else []

    def times(self, method: str) -> list[float]:
        """When it happened."""
        return [float(line.split(" ")[1]) for line in self.lines(method)]

    @staticmethod
    def until(condition: Callable[[], Any], seconds: float = 60) -> None:
        """Wait for a condition."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "it did not come"
            time.sleep(0.02)


def statuses(views: list[RunView]) -> dict[str, str]:
    """The states of runs by their methods."""
    return {view.run.method: view.status for view in views}


@pytest.fixture
def folder(tmp_path: Path, training: None, shapes_voc: Path, tiny_settings: tuple[str, ...]) -> Iterator[Folder]:
    """A grid's folder whose jobs end with the test."""
    found = Folder(tmp_path / "out", shapes_voc, tiny_settings)
    found.path.mkdir()
    yield found
    if found.places.plan.exists():
        found.cancel()


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for SLURM's commands in the path; the folder of its state."""
    programs, state = tmp_path / "bin", tmp_path / "cluster"
    programs.mkdir(), state.mkdir()
    for name in ("sbatch", "srun", "sacct", "squeue", "scancel", "scontrol"):
        script = programs / name
        script.write_text(
            f'#!/bin/sh\nexec {sys.executable} -S {Path(__file__).with_name("slurm_stand_in.py")} {name} "$@"\n'
        )
        script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("CLUSTER", str(state))
    monkeypatch.setattr("barm.jobs.slurm.ASK", 0.3)
    return state
