"""The process in which a job trains its run: ``python -m barm.jobs.train GRID_FOLDER RUN``."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

from filelock import FileLock, Timeout

from barm.errors import Failed, Stopped, UserError
from barm.jobs.plan import Places, read_plan

PATIENCE = 120.0  # seconds for the training of a job that was killed to save and end


def train(out: Path, name: str) -> None:
    """Train a run of a grid, or go on with it.

    Args:
        out: the grid's folder.
        name: of the run.

    Raises:
        UserError: as `barm.fit` does.
        Failed: if another process trains it.
    """
    from barm.grid import train_cell  # loads torch
    from barm.grid_file import Cell, GridConfig

    places = Places(out)
    plan = read_plan(places)
    run = next(run for run in plan.runs if run.name == name)
    cell = Cell(run.method, run.task, run.setting, run.order, run.seed)
    try:
        with FileLock(places.of(name, ".training.lock"), timeout=PATIENCE):
            os.chdir(plan.cwd)
            train_cell(GridConfig.model_validate(plan.grid), cell, out, Path(plan.root))
    except Timeout:
        raise Failed(f"{out / name} is in use by another process: wait for it") from None


def _end_with_parent() -> None:
    """Ask this process to save and stop when the job's process is gone: standard input then ends."""

    def wait() -> None:
        while os.read(0, 1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


def main() -> int:
    """Train and print an error as one line; the status."""
    _end_with_parent()
    try:
        train(Path(sys.argv[1]), sys.argv[2])
    except Stopped as stopped:
        print(f"barm: {stopped}", file=sys.stderr)
        return 128 + stopped.signum
    except UserError as error:
        print(f"barm: {' '.join(str(error).split())}", file=sys.stderr)
        return 1 if isinstance(error, Failed) else 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
