"""What became of every run: read from files that its job and its submitter wrote. Nothing here needs torch."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple

from filelock import FileLock, Timeout

from barm.jobs.plan import Places, Plan, PlannedRun, Table, read_record

RETRIES = 1  # of a run that failed
BEGINS = 60.0  # seconds within which a job begins after it was submitted on this machine, or queued again
TAIL = 4096  # bytes at the end of a log
NO_ANSWER = "SLURM did not answer"
OVER = ("finished", "failed", "cancelled")


class RunState(Table):
    """What the job of a run says about it.

    Attributes:
        status: ``requeued`` is a stop after which the job itself is queued again; after ``failed`` nothing is tried.
        failures: so far.
        began: when the job did, in seconds since 1970.
        ended: likewise; None while it trains.
        seconds: that jobs before it trained.
        host: the machine.
        job: the job's number.
        last: why it failed.
    """

    status: Literal["running", "stopped", "requeued", "failed", "finished"]
    failures: int
    began: float
    ended: float | None
    seconds: float
    host: str
    pid: int
    job: str
    last: str = ""


class Submission(Table):
    """What the submitter says about a run.

    Attributes:
        job: the job's number.
        when: it was submitted, in seconds since 1970.
        slot: its place among the runs at the same time, from 0.
        silent: submissions before it in a row that never began, although they need not wait for another job.
        after: the success for which it waits on a cluster, which gives it up if that does not come.
    """

    job: str
    when: float
    slot: int
    silent: int
    after: str = ""

    @property
    def silence(self) -> int:
        """The same with this one, if it never began."""
        return self.silent + (not self.after)


class RunView(NamedTuple):
    """A run as it stands now.

    Attributes:
        run: of the plan.
        status: ``waiting`` to be submitted, ``queued``, ``running``, or one of `OVER`.
        state: as its job wrote it last.
        submission: the last one.
        failures: jobs that died without a word included.
        note: why its job is pending, or why nothing is known about it now.
    """

    run: PlannedRun
    status: str
    state: RunState | None
    submission: Submission | None
    failures: int
    note: str = ""

    @property
    def is_over(self) -> bool:
        """Whether nothing more will be done."""
        return self.status in OVER

    @property
    def is_unknown(self) -> bool:
        """Whether the cluster did not say whether its job lives."""
        return self.note.startswith(NO_ANSWER)

    @property
    def begun(self) -> bool:
        """Whether the last submitted job began."""
        return self.state is not None and self.submission is not None and self.state.job == self.submission.job

    def seconds(self, now: float) -> float:
        """How long it was trained so far."""
        if self.state is None:
            return 0.0
        end = self.state.ended or (now if self.status == "running" else self.state.began)
        return self.state.seconds + end - self.state.began

    def why(self, places: Places) -> str:
        """Why it failed, and where to read more."""
        log, last = places.of(self.run.name, ".log"), self.state.last if self.state else ""
        if self.submission is not None and not self.begun:
            log = places.engine / f"{self.submission.job}_0_log.err"
            last = last_line(log) or "its job never began"
        return f"{last or 'its job died without a word, twice (for want of memory?)'}; see {log}"


class Alive(NamedTuple):
    """A run whose job lives, or may do so.

    Attributes:
        status: ``running`` or ``queued``.
        note: as in `RunView`.
    """

    status: Literal["running", "queued"]
    note: str = ""


Living = Callable[[Iterable[RunView]], Mapping[str, Alive]]


def read_state(places: Places, name: str) -> RunState | None:
    """What the job of a run says about it, None before it began."""
    path = places.of(name, ".state.json")
    return read_record(path, RunState, lambda what: f"{path} is damaged ({what}): remove it")


def read_submission(places: Places, name: str) -> Submission | None:
    """The last submission of a run."""
    path = places.of(name, ".job.json")
    return read_record(path, Submission, lambda what: f"{path} is damaged ({what}): remove it")


def views_of(plan: Plan, places: Places, living: Living) -> list[RunView]:
    """All runs as they stand now.

    Args:
        plan: of the grid.
        places: of its files.
        living: tells of submitted runs whose jobs live by their names.
    """
    found = [_read(places, run) for run in plan.runs]
    alive = living([view for view in found if view.status != "finished"])
    cancelled = places.cancelled.exists()
    return [_standing(view, alive.get(view.run.name), cancelled) for view in found]


def _read(places: Places, run: PlannedRun) -> RunView:
    state = read_state(places, run.name)
    finished = run.finished or (state is not None and state.status == "finished")
    status = "finished" if finished else "waiting"
    return RunView(run, status, state, read_submission(places, run.name), state.failures if state else 0)


def _standing(view: RunView, alive: Alive | None, cancelled: bool) -> RunView:
    if view.status == "finished":
        return view
    if alive is not None:
        return view._replace(status=alive.status, note=alive.note)
    never = view.submission is not None and not view.begun and view.submission.silence > RETRIES
    final = view.state is not None and view.state.status == "failed"
    failed = never or final or failures(view.state) > RETRIES
    return view._replace(status="failed" if failed else "cancelled" if cancelled else "waiting")


def failures(state: RunState | None) -> int:
    """Failures of a run none of whose jobs lives; one that still says ``running`` was killed."""
    return 0 if state is None else state.failures + (state.status == "running")


def start_of(run: PlannedRun, views: Mapping[str, RunView], places: Places) -> str | None:
    """The run whose step 0 this one waits for, None if it need not wait."""
    if has_start(places, run.name):
        return None
    for name in run.starts:
        if has_start(places, name):
            return None
        if not views[name].is_over:
            return name
    return None


def has_start(places: Places, name: str) -> bool:
    """Whether a run's step 0 is there."""
    return (places.out / name / "step00").is_dir()


def is_held(lock: Path) -> bool:
    """Whether a process of this machine holds the lock."""
    try:
        with FileLock(lock, timeout=0):
            return False
    except Timeout:
        return True


def step_of(view: RunView, places: Places) -> str:
    """The step that a run trains, with the last logged update; empty where nothing was trained."""
    folder = places.out / view.run.name
    done = len(list(folder.glob("step[0-9][0-9]*")))
    if view.status == "finished":
        return "" if done == 0 else str(done - 1)
    words = last_line(folder / "log.csv").split(",")
    update = f", update {words[2]}" if len(words) == 5 and words[0] == str(done) else ""
    return f"{done}{update}" if done or update or view.status == "running" else ""


def last_line(path: Path, start: int = 0) -> str:
    """The last line of a text file that is not empty, of what was written from `start` on."""
    with suppress(OSError), path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(start, size - TAIL))
        lines = file.read().decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")
    return ""
