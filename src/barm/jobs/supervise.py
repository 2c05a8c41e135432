"""The job of one run, as submitit starts it: a small process that trains in another one and writes down what became.

A signal before the time limit (or a preemption) makes the training save; then the job is queued again. A training that
fails, whatever ended it, is started once more, unless what it was given is wrong. Nothing here needs torch.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from barm.jobs.plan import Places, write_record
from barm.jobs.states import RETRIES, RunState, failures, last_line, read_state

LOOK = 1.0  # seconds between looks for a cancellation: the disk may be a network's
PATIENCE = 5.0  # seconds for a lock that others hold to look at it
WRONG = 2  # status of a training whose settings or data are wrong: another one would end likewise
LAUNCHERS = ("SLURM_", "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")  # a run is one process


class RunFailed(RuntimeError):
    """A run failed; its state says why."""


class RunJob:
    """One run of a grid, as a job that can be stopped and queued again.

    Args:
        out: the grid's folder.
        name: of the run.
        threads: of its arithmetic.
        device: number of its GPU; empty for none, None for what the cluster gives.
    """

    def __init__(self, out: str, name: str, threads: int, device: str | None) -> None:
        self.out, self.name, self.threads, self.device = out, name, threads, device

    def __call__(self) -> str:
        """Train the run to its end.

        Raises:
            RunFailed: it failed more than once, or its settings or data are wrong.
            SystemExit: it was stopped; its state is saved.
        """
        places = Places(Path(self.out))
        lock = FileLock(places.lock(self.name), timeout=PATIENCE)
        try:
            with lock:
                return _Supervision(self, places).run()
        except Timeout:
            return "another job trains this run"

    def checkpoint(self) -> Any:
        """What is queued again: the same, which goes on from what was saved."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


class _Supervision:
    """The training of a run under a job of submitit."""

    def __init__(self, job: RunJob, places: Places) -> None:
        from submitit import JobEnvironment

        environment = JobEnvironment()
        self.job, self.places, self.number = job, places, environment.job_id
        self.log = places.of(job.name, ".log")
        self.stop_signal, self.cancelled, self.due = 0, False, 0.0
        self.again = getattr(signal, f"SIG{environment.USR_SIG}")
        self.requeue: Any = signal.getsignal(self.again)  # submitit's: queues the job again and ends it
        for signum in (self.again, signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, self._note)
        before = read_state(places, job.name)
        spent = 0.0 if before is None else before.seconds + (before.ended or before.began) - before.began
        self.state = RunState(
            status="running",
            failures=failures(before),
            began=time.time(),
            ended=None,
            seconds=spent,
            host=socket.gethostname(),
            pid=os.getpid(),
            job=self.number,
        )

    def run(self) -> str:
        """Train until the run is finished, stopped, or has failed too often."""
        while not self._stopped():
            self._write("running")
            start = self.log.stat().st_size if self.log.exists() else 0
            status = self._train()
            if status == 0:
                self._write("finished", time.time())
                return "finished"
            if self._stopped():
                break
            last = _reason(status, last_line(self.log, start))
            self.state = self.state.model_copy(update={"failures": self.state.failures + 1, "last": last})
            if status == WRONG or self.state.failures > RETRIES:
                self._write("failed", time.time())
                raise RunFailed(f"{self.job.name}: {last}; see {self.log}")
        if self.stop_signal != self.again or self.cancelled:
            self._write("stopped", time.time())
            sys.exit(128 + (self.stop_signal or signal.SIGTERM))
        self._write("requeued", time.time())
        try:
            self.requeue(self.again, None)
        except Exception:
            self._write("stopped", time.time())
            raise
        raise AssertionError("submitit ends a job that it has queued again")

    def _stopped(self) -> bool:
        if time.monotonic() >= self.due:
            self.due, self.cancelled = time.monotonic() + LOOK, self.places.cancelled.exists()
        return bool(self.stop_signal) or self.cancelled

    def _note(self, signum: int, _frame: Any) -> None:
        if self.stop_signal != self.again:  # a cluster may send SIGTERM beside it, before or after
            self.stop_signal = signum

    def _train(self) -> int:
        """Train in a process of its own; its status. It ends with this process: its standard input is then closed."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(LAUNCHERS)}
        given = {"OMP_NUM_THREADS": str(self.job.threads)}
        if self.job.device is not None:
            given["CUDA_VISIBLE_DEVICES"] = self.job.device
        command = [sys.executable, "-m", "barm.jobs.train", self.job.out, self.job.name]
        with self.log.open("ab") as log:
            child = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT, env={**kept, **given}
            )
            told = False
            while child.poll() is None:
                if self._stopped() and not told:
                    child.send_signal(signal.SIGTERM)
                    told = True
                time.sleep(0.05)
        return child.returncode

    def _write(self, status: str, ended: float | None = None) -> None:
        self.state = RunState.model_validate({**self.state.model_dump(), "status": status, "ended": ended})
        write_record(self.places.of(self.job.name, ".state.json"), self.state)


def _reason(status: int, last: str) -> str:
    """Why a training failed, by its status and the last line of its log."""
    if status >= 0:
        return last or f"it ended with status {status}"
    name = signal.Signals(-status).name
    return f"it was ended by {name}{' (for want of memory?)' if name == 'SIGKILL' else ''}"
