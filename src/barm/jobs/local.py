"""Jobs on this machine: who lives, and a keeper process that starts at most so many at once. Nothing here needs torch.

The keeper belongs to no terminal and ends when nothing is left: ``python -m barm.jobs.local GRID_FOLDER``. If it is
killed, the jobs go on, and whoever looks starts another one.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from barm.jobs.plan import Places, Plan, PlannedRun, read_plan, write_record
from barm.jobs.states import (
    BEGINS,
    Alive,
    RunView,
    Submission,
    is_held,
    read_state,
    read_submission,
    start_of,
    views_of,
)
from barm.jobs.supervise import RunJob
from barm.processes import exists

PAUSE = 0.5  # seconds between two looks
NO_LIMIT = 365 * 24 * 60  # minutes
OFTEN = 1000  # times that a job may be queued again
SAVING = 300  # seconds before the limit at which a job is told to save, or half the limit


class Jobs:
    """Which submitted runs live on this machine."""

    def __init__(self, places: Places) -> None:
        self.places = places

    def __call__(self, views: Iterable[RunView]) -> Mapping[str, Alive]:
        """The living ones by their names."""
        found = {view.run.name: self._living(view) for view in views}
        return {name: Alive(status) for name, status in found.items() if status is not None}

    def _living(self, view: RunView) -> Literal["running", "queued"] | None:
        submission, state = view.submission, view.state
        if is_held(self.places.lock(view.run.name)):  # whoever submitted it may have died before a note of it
            return "running" if state is not None and state.status == "running" else "queued"
        if submission is None:
            return None
        since = submission.when
        if view.begun and state is not None:
            if state.status != "requeued" or state.ended is None:
                return None
            since = state.ended
        return "queued" if time.time() - since < BEGINS and exists(int(submission.job)) else None


def keep(out: Path) -> None:
    """Start what is ready, at most `jobs` at once, until nothing is left. A second keeper ends at once."""
    places, started = Places(out), list[Any]()
    try:
        while _is_left(places):  # asked without the lock too: who saw it held has left new work to this keeper
            with FileLock(places.lock("keeper"), timeout=5):  # others hold it for a moment to see whether it is held
                while _is_left(places):
                    started = [job for job in started if not job.done()]  # takes note of ended processes
                    plan = read_plan(places)
                    for run, slot in ready(plan, views_of(plan, places, Jobs(places)), places):
                        started.append(submit(plan, places, run, slot))
                    time.sleep(PAUSE)
    except Timeout:
        return


def _is_left(places: Places) -> bool:
    """Whether there is anything to do, or to wait for."""
    plan = read_plan(places)
    return not places.cancelled.exists() and not all(v.is_over for v in views_of(plan, places, Jobs(places)))


def ready(plan: Plan, views: list[RunView], places: Places) -> list[tuple[PlannedRun, int]]:
    """The runs to start now, each with its place among those at the same time."""
    busy = {view.submission.slot for view in views if view.status in ("running", "queued") and view.submission}
    free = [slot for slot in range(plan.options.jobs or 1) if slot not in busy]
    by_name = {view.run.name: view for view in views}
    waiting = (view.run for view in views if view.status == "waiting")
    return list(zip((run for run in waiting if start_of(run, by_name, places) is None), free, strict=False))


def submit(plan: Plan, places: Places, run: PlannedRun, slot: int) -> Any:
    """Start the job of a run."""
    import submitit

    limit = plan.options.time or NO_LIMIT
    executor = submitit.LocalExecutor(places.engine, max_num_timeout=OFTEN)
    executor.update_parameters(timeout_min=limit, signal_delay_s=min(SAVING, 30 * limit))
    device = plan.devices[slot % len(plan.devices)] if plan.devices else ""
    job = executor.submit(RunJob(str(places.out), run.name, plan.options.cpus or 1, device))
    note(places, run.name, job.job_id, slot)
    return job


def note(places: Places, name: str, job: str, slot: int, after: str = "") -> None:
    """Write down that a run was submitted."""
    before, state = read_submission(places, name), read_state(places, name)
    began = before is None or (state is not None and state.job == before.job)
    silent = 0 if began or before is None else before.silence
    record = Submission(job=job, when=time.time(), slot=slot, silent=silent, after=after)
    write_record(places.of(name, ".job.json"), record)


def ensure_keeper(places: Places) -> bool:
    """Start a keeper if there is none, and wait until it is at work; whether one was started."""
    lock = places.lock("keeper")
    if is_held(lock):
        return False
    with places.of("keeper", ".log").open("ab") as log:
        keeper = subprocess.Popen(
            [sys.executable, "-m", "barm.jobs.local", str(places.out)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    end = time.monotonic() + BEGINS
    while keeper.poll() is None and not is_held(lock) and time.monotonic() < end:
        time.sleep(0.1)
    return True


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


if __name__ == "__main__":
    keep(Path(sys.argv[1]))
