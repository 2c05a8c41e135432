"""Stopped runs go on as if they had never stopped: the same weights, bit for bit."""

from __future__ import annotations

import csv
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from barm.api import fit
from barm.engine.checkpoint.differences import to_table
from barm.engine.checkpoint.directory import RunDirectory
from barm.writing import write_atomically
from forked import Forked
from forked import command as barm

pytestmark = pytest.mark.slow


@pytest.fixture
def command(tmp_path, tiny):
    """A function that starts the run in its own process."""
    import tomli_w

    config = tiny("barm", "2-1", "base.epochs=6", "increment.epochs=6", "runtime.save_every=4")
    recipe = tmp_path / "recipe.toml"
    write_atomically(recipe, tomli_w.dumps(to_table(config)).encode())

    def start(out: Path, *more: str, before: Callable[[], object] = lambda: None) -> Forked:
        return Forked(lambda: (before(), barm("train", "--recipe", recipe, "--out", out, "--quiet", *more)()))

    return config, start


@pytest.fixture
def fresh(command, tmp_path):
    """The same in processes that have nothing from this one, where a test before may have used the GPU."""

    def start(out: Path, *more: str) -> subprocess.Popen[str]:
        words = ["train", "--recipe", str(tmp_path / "recipe.toml"), "--out", str(out), "--quiet", *more]
        return subprocess.Popen([sys.executable, "-m", "barm.cli", *words], text=True, stderr=subprocess.PIPE)

    return start


def interrupt(process: Forked | subprocess.Popen[str], out: Path, step: int, iteration: int, signum: int) -> int | None:
    """Send a signal once the run has finished an iteration of a step; its exit status."""
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and process.poll() is None:
        log = out / "log.csv"
        if log.exists() and any(reached(row, step, iteration) for row in list(csv.reader(log.open()))[1:]):
            process.send_signal(signum)
            break
        time.sleep(0.002)
    process.communicate(timeout=60)
    return process.returncode


def reached(row: list[str], step: int, iteration: int) -> bool:
    return len(row) == 5 and (int(row[0]), int(row[2])) >= (step, iteration)


def weights(out: Path) -> list[bytes]:
    return [(RunDirectory(out).step_path(i) / "model.safetensors").read_bytes() for i in range(3)]


def test_killed_runs_end_in_the_same_weights(command, tmp_path):
    config, start = command
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    fit(config, out=whole, quiet=True)

    assert interrupt(start(broken), broken, 0, 6, signal.SIGKILL) == -signal.SIGKILL
    assert not RunDirectory(broken).is_complete(0)
    assert interrupt(start(broken, "--resume"), broken, 1, 5, signal.SIGTERM) == 128 + signal.SIGTERM
    assert RunDirectory(broken).load_partial(1)["iteration"] >= 5
    assert interrupt(start(broken, "--resume"), broken, 2, 3, signal.SIGINT) == 128 + signal.SIGINT
    assert interrupt(start(broken, "--resume"), broken, 2, 7, signal.SIGKILL) == -signal.SIGKILL
    last = start(broken, "--resume")
    last.communicate(timeout=90)
    assert last.returncode == 0

    assert weights(broken) == weights(whole)
    rows = list(csv.reader((broken / "log.csv").open()))
    assert rows == list(csv.reader((whole / "log.csv").open())) or _without_rates(rows) == _without_rates(
        list(csv.reader((whole / "log.csv").open()))
    )
    assert not list(broken.glob(".step*"))


def _without_rates(rows: list[list[str]]) -> list[list[str]]:
    """Log rows without speed and memory, which no two runs share."""
    return [row for row in rows if row[3] not in ("images_per_second", "memory_mb")]


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_change_nothing(workers, tiny, tmp_path):
    fit(tiny("barm", "2-1", "runtime.workers=0"), out=tmp_path / "a", quiet=True)
    fit(tiny("barm", "2-1", f"runtime.workers={workers}"), out=tmp_path / "b", quiet=True)
    assert weights(tmp_path / "a") == weights(tmp_path / "b")


def test_a_disk_that_fills_up_ends_the_run_at_once(command, tmp_path):
    """The limit on the size of a file stands for the full disk; the loader's processes must not keep the run alive."""
    _, start = command
    out = tmp_path / "run"
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))  # noqa: E731
    process = start(out, "--set", "runtime.workers=1", before=limit)
    _, err = process.communicate(timeout=90)
    assert process.returncode == 2
    assert err.startswith("barm: cannot write")
    assert err.count("\n") == 1, err
    assert not out.exists()


@pytest.mark.gpu
def test_resume_on_a_gpu(fresh, tmp_path):
    """Deterministic there: killed and resumed, it ends in the same weights."""
    words = ("--device", "cuda", "--set", "runtime.deterministic=true")
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    interrupt(fresh(broken, *words), broken, 1, 3, signal.SIGKILL)
    for process in (fresh(broken, *words, "--resume"), fresh(whole, *words)):
        _, err = process.communicate(timeout=180)
        assert process.returncode == 0, err
    assert RunDirectory(broken).finished_steps() == [0, 1, 2]
    assert weights(broken) == weights(whole)
