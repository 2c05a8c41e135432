"""Real trainings as jobs end in the same bits as one after the other, whatever was killed or preempted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from barm.grid import run_grid
from barm.grid_file import GridConfig, cells
from barm.jobs.control import cancel_grid, grid_status
from barm.jobs.plan import Places
from barm.jobs.states import is_held, read_state

pytestmark = [pytest.mark.long, pytest.mark.slow]
METHODS, SHARED = ("finetune", "joint", "mib"), (("finetune", "joint"),)


@pytest.fixture(scope="module")
def grid(tiny_settings):
    """Six runs of two steps, of some dozen updates each."""
    longer = ("base.epochs=6", "increment.epochs=6", "runtime.save_every=4")
    return GridConfig(
        recipes="shapes",
        methods=METHODS,
        tasks=("3-1",),
        seeds=(1, 2),
        same_start=SHARED,
        overrides=(*tiny_settings, *longer),
    )


@pytest.fixture(scope="module")
def undisturbed(grid, shapes_voc, tmp_path_factory):
    """The runs, trained one after the other on one thread."""
    out = tmp_path_factory.mktemp("one") / "out"
    _, failed = run_grid(grid, out, shapes_voc, lambda _: None, quiet=True)
    assert not failed
    return out


@pytest.fixture
def start(grid, shapes_voc, tmp_path):
    """A function that starts the command, and the folder of the runs."""
    out, file = tmp_path / "out", tmp_path / "grid.toml"
    lists = ("methods", "tasks", "seeds", "same_start", "overrides")
    values = grid.model_dump(mode="json")
    file.write_text('recipes = "shapes"\n' + "".join(f"{name} = {values[name]!r}\n" for name in lists))

    def command(*more: str) -> subprocess.Popen[str]:
        words = [sys.executable, "-m", "barm.cli", "compare", "--grid", file, "--data", shapes_voc, "--out", out]
        return subprocess.Popen([*words, "--quiet", *more], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    yield command, out
    if Places(out).plan.exists():
        cancel_grid(out)


def bits(out: Path, grid: GridConfig) -> dict[str, list[bytes]]:
    """Weights and counts of every step of every run."""
    names = [
        f"{cell.name()}/step0{i}/{file}"
        for cell in cells(grid)
        for i in (0, 1)
        for file in ("model.safetensors", "counts.json")
    ]
    return {name: [(out / name).read_bytes()] for name in names}


def trains(out: Path, name: str, step: int, signum: int) -> None:
    """Send a signal to the job of a run once it has logged an update of a step."""
    end = time.monotonic() + 240
    while time.monotonic() < end:
        log, state = out / name / "log.csv", read_state(Places(out), name)
        if state is not None and log.exists() and any(x.startswith(f"{step},") for x in log.read_text().splitlines()):
            assert state.status == "running", "it was too fast for this test"
            os.kill(state.pid, signum)
            return
        time.sleep(0.01)
    raise AssertionError(f"{name} did not train step {step}")


def finish(command: subprocess.Popen[str], seconds: float = 500) -> str:
    """Wait for the command; what it printed."""
    out, err = command.communicate(timeout=seconds)
    assert command.returncode == 0, err
    return out


def test_side_by_side_killed_and_preempted(start, grid, undisturbed):
    command, out = start
    here = command("--on", "local", "--jobs", "2", "--cpus", "1", "--gpus", "0")
    trains(out, "3-1-overlap-s1/finetune", 0, signal.SIGKILL)
    trains(out, "3-1-overlap-s1/mib", 1, signal.SIGUSR2)
    assert "finetune" in finish(here)
    assert bits(out, grid) == bits(undisturbed, grid)
    failures = {view.run.name: view.failures for view in grid_status(out)}
    assert {name for name, number in failures.items() if number} == {"3-1-overlap-s1/finetune"}


def test_nothing_is_lost_with_the_command_and_its_keeper(start, grid, undisturbed):
    command, out = start
    words = ("--on", "local", "--jobs", "2", "--cpus", "1", "--gpus", "0")
    here = command(*words)
    trains(out, "3-1-overlap-s1/mib", 0, signal.SIGCONT)  # nothing happens to it
    here.kill()
    here.wait()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        found = path.read_bytes() if path.exists() else b""
        if b"barm.jobs.local" in found and str(out).encode() in found:
            os.kill(int(path.parent.name), signal.SIGKILL)
    while is_held(Places(out).lock("keeper")):
        time.sleep(0.1)
    finish(command("--status"))
    assert is_held(Places(out).lock("keeper"))
    finish(command(*words))
    assert bits(out, grid) == bits(undisturbed, grid)


def test_on_a_cluster(start, grid, undisturbed, cluster):
    command, out = start
    here = command("--on", "slurm", "--jobs", "2", "--cpus", "1", "--gpus", "0", "--time", "60")
    trains(out, "3-1-overlap-s1/finetune", 0, signal.SIGUSR2)
    finish(here)
    assert bits(out, grid) == bits(undisturbed, grid)


def test_the_measurement(tmp_path):
    script = Path(__file__).parents[2] / "benchmarks/grid_jobs.py"
    words = [sys.executable, script, "--small", "--rounds", "1", "--out", tmp_path / "measured"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the same bits at equal threads" in done.stdout
