"""Images and processes that are lost while a run works: one line, an end in seconds, `--resume` afterwards."""

from __future__ import annotations

import csv
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from barm.api import fit
from barm.data.masks import foreground, read_mask
from barm.engine import evaluate
from barm.engine.checkpoint.differences import to_table
from barm.engine.checkpoint.directory import RunDirectory
from barm.errors import UserError
from barm.metrics import confusion_counts
from barm.writing import write_atomically
from forked import Forked, command, ranks

pytestmark = pytest.mark.slow
LIMIT = 30  # seconds from the loss to the end: few on a machine that has nothing else to do


class Started:
    """A run in its own process, on data of its own."""

    def __init__(self, tmp_path: Path, shapes_voc: Path, tiny: Any, *overrides: str) -> None:
        import tomli_w

        self.data, self.out = tmp_path / "data", tmp_path / "run"
        shutil.copytree(shapes_voc, self.data)
        config = tiny("barm", "2-1", "base.epochs=30", "increment.epochs=2", "runtime.save_every=5", *overrides)
        self.config = config.model_copy(update={"data": config.data.model_copy(update={"root": self.data})})
        self.recipe = tmp_path / "recipe.toml"
        write_atomically(self.recipe, tomli_w.dumps(to_table(self.config)).encode())

    def command(self, *more: str) -> Callable[[], object]:
        return command("train", "--recipe", self.recipe, "--out", self.out, "--quiet", *more)

    def start(self) -> Forked:
        return Forked(self.command())

    def wait_for(self, reached: Any, process: Forked) -> None:
        deadline = time.monotonic() + 90
        while not reached(self.out) and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.002)

    def images(self, split: str) -> list[Path]:
        lists = self.data / "ImageSets/Segmentation"
        held_out = (lists / "val.txt").read_text().split()
        names = held_out if split == "val" else sorted(p.stem for p in self.data.glob("JPEGImages/*.jpg"))
        chosen = (n for n in names if (n in held_out) == (split == "val") and self.shows_first(n))
        return [self.data / f"JPEGImages/{n}.jpg" for n in chosen]

    def shows_first(self, name: str) -> bool:
        """Does an image show a class of step 0?"""
        return bool(foreground(read_mask(self.data / f"SegmentationClassAug/{name}.png")) & {1, 2})


def iterations(out: Path) -> int:
    """Iterations of step 0 in the log."""
    log = out / "log.csv"
    rows = list(csv.reader(log.open()))[1:] if log.exists() else []
    return max((int(r[2]) for r in rows if len(r) == 5 and r[0] == "0"), default=0)


def ended(process: Forked) -> tuple[int | None, str]:
    """Exit status and stderr of a process that must end within the limit."""
    _, err = process.communicate(timeout=LIMIT)
    return process.returncode, err


def weights(out: Path) -> list[bytes]:
    return [(RunDirectory(out).step_path(i) / "model.safetensors").read_bytes() for i in range(3)]


@pytest.mark.parametrize("workers", [pytest.param(0, marks=pytest.mark.long), 2])
def test_an_image_that_is_deleted_ends_the_run_and_it_can_be_resumed(workers, tmp_path, shapes_voc, tiny):
    run = Started(tmp_path, shapes_voc, tiny, f"runtime.workers={workers}", "runtime.log_every=1")
    process = run.start()
    run.wait_for(lambda out: iterations(out) >= 6, process)
    victim = run.images("train")[0]
    victim.rename(tmp_path / "kept.jpg")
    status, err = ended(process)

    assert status == 1, err
    assert err.count("\n") == 1, err
    assert str(victim) in err
    assert "--resume" in err
    done = RunDirectory(run.out).load_partial(0)["iteration"]
    assert done >= 6

    (tmp_path / "kept.jpg").rename(victim)
    fit(run.config, out=run.out, resume=True, quiet=True)
    fit(run.config, out=tmp_path / "whole", quiet=True)
    assert weights(run.out) == weights(tmp_path / "whole")


def test_an_image_that_is_deleted_before_the_evaluation_costs_no_training(tmp_path, shapes_voc, tiny):
    run = Started(tmp_path, shapes_voc, tiny, "runtime.workers=1", "runtime.save_every=1000", "runtime.log_every=1")
    process = run.start()
    run.wait_for(lambda out: iterations(out) >= 2, process)
    victim = run.images("val")[2]
    victim.unlink()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1, err
    assert err.count("\n") == 1, err
    assert str(victim) in err
    state = RunDirectory(run.out).load_partial(0)
    assert state["iteration"] == 30 * state_per_epoch(run)


def state_per_epoch(run: Started) -> int:
    """Updates of an epoch of step 0, from a copy of the run that has all images."""
    from barm.data.sampler import iterations_per_epoch
    from barm.engine.datasets import open_data, train_dataset
    from barm.engine.runtime import Runtime

    config = run.config.model_copy(update={"data": run.config.data.model_copy(update={"root": run.data})})
    for image in run.images("val"):
        if not image.exists():
            shutil.copy(run.images("train")[0], image)
    data = open_data(config, Runtime(config.runtime))
    return iterations_per_epoch(len(train_dataset(config, data, data.plan[0])), 4, 1)


def test_with_two_processes_the_one_that_fails_ends_both(tmp_path, shapes_voc, tiny):
    run = Started(tmp_path, shapes_voc, tiny, "runtime.workers=1", "runtime.log_every=1", "base.epochs=60")
    processes = ranks(run.command())
    run.wait_for(lambda out: iterations(out) >= 10, processes[0])
    victim = run.images("train")[1]
    victim.rename(tmp_path / "kept.jpg")
    statuses, errors = zip(*map(ended, processes), strict=True)
    err = "".join(errors)

    assert statuses == (1, 1), err
    own = [line for line in err.splitlines() if line.startswith("barm: ")]
    assert len({line for line in own if line.startswith("barm: image")}) == 1, err
    assert all(str(victim) in line for line in own), err  # the other process may say why it ends
    assert RunDirectory(run.out).load_partial(0)["iteration"] >= 5

    (tmp_path / "kept.jpg").rename(victim)
    with pytest.raises(UserError, match="step 0 was stopped with 2 processes, now there is 1"):
        fit(run.config, out=run.out, resume=True, quiet=True, steps=[0])
    again = [ended(process) for process in ranks(run.command("--resume", "--step", "0"))]
    assert [status for status, _ in again] == [0, 0], again
    assert RunDirectory(run.out).finished_steps() == [0]


def workers_of(process: Forked) -> list[int]:
    """The processes that it has started."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(c) for c in children]


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="finds the workers in /proc")
def test_a_killed_worker_is_one_line(tmp_path, shapes_voc, tiny):
    run = Started(tmp_path, shapes_voc, tiny, "runtime.workers=2", "runtime.log_every=1", "base.epochs=400")
    process = run.start()
    run.wait_for(lambda out: iterations(out) >= 6, process)
    os.kill(workers_of(process)[0], signal.SIGKILL)
    status, err = ended(process)
    assert status == 1, err
    assert err.count("\n") == 1, err
    assert "killed" in err
    assert "runtime.workers" in err
    assert RunDirectory(run.out).load_partial(0)["iteration"] >= 5


def slowly(*words: Any) -> Any:
    """Counts of a batch, which take 0.2 s."""
    print("batch", flush=True)
    time.sleep(0.2)
    return confusion_counts(*words)


@pytest.mark.parametrize(("signum", "workers"), [(signal.SIGINT, 1), (signal.SIGTERM, 0)])
def test_a_signal_is_obeyed_within_an_evaluation(signum, workers, tmp_path, shapes_voc, tiny):
    """The evaluation of step 0 has six batches of 0.2 s; it is stopped in its first."""
    settings = (f"runtime.workers={workers}", "base.epochs=2", "evaluation.batch_size=1")
    run = Started(tmp_path, shapes_voc, tiny, *settings)
    process = Forked(lambda: (setattr(evaluate, "confusion_counts", slowly), run.command()()))
    run.wait_for(lambda _: process.out, process)
    process.send_signal(signum)
    out, err = process.communicate(timeout=LIMIT)

    assert process.returncode == 128 + signum, err
    assert err.count("\n") == 1, err
    assert "--resume" in err
    assert out.count("batch") < 5
    assert not RunDirectory(run.out).finished_steps()

    fit(run.config, out=run.out, resume=True, quiet=True)
    fit(run.config, out=tmp_path / "whole", quiet=True)
    assert weights(run.out) == weights(tmp_path / "whole")


def test_a_folder_that_is_removed_in_mid_step_is_one_line(tmp_path, shapes_voc, tiny):
    run = Started(tmp_path, shapes_voc, tiny, "runtime.workers=1", "runtime.log_every=1", "base.epochs=400")
    process = run.start()
    run.wait_for(lambda out: iterations(out) >= 6, process)
    shutil.rmtree(run.out)
    status, err = ended(process)
    assert status == 1, err
    assert err.count("\n") == 1, err
    assert str(run.out) in err
    assert not run.out.exists()
