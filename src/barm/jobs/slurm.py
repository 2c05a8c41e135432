"""Jobs on a SLURM cluster: submit them all, and ask which of them live. Nothing here needs torch."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from filelock import FileLock

from barm.errors import UserError
from barm.jobs.local import OFTEN, note
from barm.jobs.plan import Places, Plan, PlannedRun
from barm.jobs.sbatch import DEFAULTS, parameters
from barm.jobs.states import NO_ANSWER, Alive, RunView, read_submission, start_of, views_of
from barm.jobs.supervise import RunJob
from barm.reading import short

ASK = 30.0  # seconds between two questions to the cluster, and between two tries after a refusal
ANSWERS = 60.0  # seconds within which it must answer
KNOWN = 600.0  # seconds after which the accounting must know a job
QUEUED = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "CONFIGURING", "SUSPENDED", "PREEMPTED", "READY")
ENDED = (
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "LAUNCH_FAILED", "NODE_FAIL", "OUT_OF_MEMORY"),
    *("RECONFIG_FAIL", "REVOKED", "TIMEOUT"),
)  # any other word is that of a job that lives
FAILED = ("BOOT_FAIL", "NODE_FAIL")  # after which SLURM may queue a job again
UNSURE = ("", "PENDING", "PREEMPTED", "REQUEUED", *FAILED)  # words of the accounting about which the queue knows more
PROGRAMS = ("sbatch", "srun", "squeue", "scancel")


class Word(NamedTuple):
    """What SLURM says about a job.

    Attributes:
        state: empty where it does not know the job, None where it did not answer.
        reason: why the job is pending.
    """

    state: str | None
    reason: str = ""


class NoAnswer(Exception):
    """A command of SLURM failed; the message says how."""


class Jobs:
    """Which submitted runs live on the cluster. Its answers are kept for a while.

    Attributes:
        silence: why the cluster did not answer; empty where it did.
        refusal: why it took no more jobs; empty where it did.
    """

    def __init__(self, places: Places) -> None:
        self.places = places
        self.asked, self.known, self.silence = 0.0, dict[str, Word](), ""
        self.refused, self.refusal = 0.0, ""

    def __call__(self, views: Iterable[RunView]) -> Mapping[str, Alive]:
        """The living ones by their names: ``running`` or ``queued``."""
        submitted = [(view, view.submission.job) for view in views if view.submission is not None]
        numbers = [job for _, job in submitted]
        if submitted and (set(numbers) - self.known.keys() or time.monotonic() - self.asked > ASK):
            self.known, self.silence = self._answers(numbers)
            self.asked = time.monotonic()
        found = {view.run.name: self._living(view, self.known[job]) for view, job in submitted}
        return {name: alive for name, alive in found.items() if alive is not None}

    def forget(self) -> None:
        """Ask anew next time."""
        self.asked, self.known = 0.0, {}

    def refuse(self, why: str) -> None:
        """Take note that the cluster takes no more jobs for now; empty if it does."""
        self.refused, self.refusal = time.monotonic(), why

    @property
    def pauses(self) -> bool:
        """Whether it is too early for another try after a refusal."""
        return bool(self.refusal) and time.monotonic() - self.refused < ASK

    def _answers(self, numbers: list[str]) -> tuple[dict[str, Word], str]:
        """A word for every job, and why there is none for some: what had ended before has ended."""
        found, silence = states_of(numbers)
        kept = {job: word for job, word in self.known.items() if word.state in ENDED}
        return {job: found.get(job) or kept.get(job) or Word(None) for job in numbers}, silence

    def _living(self, view: RunView, word: Word) -> Alive | None:
        if view.begun and view.state is not None and view.state.status in ("finished", "failed"):
            return None  # the cluster may not know it yet
        runs = view.begun and view.state is not None and view.state.status == "running"
        if word.state is None:
            return Alive("running" if runs else "queued", f"{NO_ANSWER}: {self.silence}")
        if word.state in QUEUED:
            return Alive("queued", word.reason)
        if word.state and word.state not in ENDED:
            return Alive("running" if runs else "queued")
        recent = view.submission is not None and time.time() - view.submission.when < KNOWN
        return Alive("queued") if not word.state and recent and not view.begun else None


def check_present() -> None:
    """Refuse a machine from which no cluster can be reached.

    Raises:
        UserError: if a program of SLURM is missing.
    """
    missing = next((name for name in PROGRAMS if shutil.which(name) is None), None)
    if missing is not None:
        raise UserError(f"no SLURM on this machine (no {missing}): use --on local, or a login node of the cluster")


def states_of(jobs: list[str]) -> tuple[dict[str, Word], str]:
    """What SLURM says about jobs by their numbers, without those about which it did not answer, and why it did not.

    Accounting (sacct) is asked first; the queue about what waits, and where a cluster has no accounting.
    """
    found, silences = dict.fromkeys(jobs, Word("")), list[str]()
    try:
        found |= _accounting(jobs)
    except NoAnswer as error:
        silences.append(str(error))
    unsure = [job for job in jobs if found[job].state in UNSURE]
    if not unsure:
        return found, ""
    try:
        queue = _queue()
    except NoAnswer as error:
        silences.append(str(error))
        known = {job: word for job, word in found.items() if word.state and word.state not in FAILED}
        return known, "; ".join(silences)
    gone = {job: Word("") for job in unsure if found[job].state == "PREEMPTED"}  # unless it is queued again
    return {**found, **gone, **{job: queue[job] for job in unsure if job in queue}}, ""


def _accounting(jobs: list[str]) -> dict[str, Word]:
    """What the accounting says about the jobs that it knows."""
    lines = _ask(
        "sacct", "--noheader", "--parsable2", "--allocations", "--format=JobID,State", f"--jobs={','.join(jobs)}"
    )
    pairs = (line.partition("|") for line in lines)
    return {job: Word(state.split(" ")[0]) for job, _, state in pairs if job in jobs and state}


def _queue() -> dict[str, Word]:
    """What the queue says about this user's jobs; those that have ended are not in it."""
    words = (line.split(maxsplit=2) for line in _ask("squeue", "--noheader", "--me", "--format=%A %T %r"))
    return {w[0]: Word(w[1], w[2] if len(w) > 2 and w[2] != "None" else "") for w in words if len(w) > 1}


def _ask(*command: str) -> list[str]:
    """The lines that a command of SLURM prints.

    Raises:
        NoAnswer: if it fails, or takes too long.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=ANSWERS, check=False)
    except subprocess.TimeoutExpired:
        raise NoAnswer(f"{command[0]} took more than {ANSWERS:.0f} s") from None
    except OSError as error:
        raise NoAnswer(f"{command[0]}: {error.strerror}") from None
    if done.returncode:
        said = done.stderr.strip().splitlines()[-1:] or [f"status {done.returncode}"]
        raise NoAnswer(f"{command[0]}: {said[0].removeprefix(f'{command[0]}: error: ')}")
    return done.stdout.splitlines()


def submit_waiting(plan: Plan, places: Places, living: Jobs) -> int:
    """Submit every run that waits; their number. A run that takes over step 0 waits for the job that trains it.

    What the cluster refuses while other runs live is left for the next try.

    Raises:
        UserError: if there is no SLURM, or it refuses a job while none lives.
    """
    with FileLock(places.lock("submit")):
        views = {view.run.name: view for view in views_of(plan, places, living)}
        numbers = [_number(view) for view in views.values() if view.status in ("running", "queued")]
        waiting = [view.run for view in views.values() if view.status == "waiting"]
        for done, run in enumerate(waiting):
            start = start_of(run, views, places)
            after = "" if start is None else f"afterok:{_number(views[start])}"
            conditions = [after] if after else []
            if plan.options.jobs is not None and len(numbers) >= plan.options.jobs:
                conditions.append(f"afterany:{numbers[-plan.options.jobs]}")
            try:
                number = _submit(plan, places, run, ",".join(conditions))
            except UserError as error:
                if not numbers:
                    raise
                living.refuse(str(error))
                return done
            note(places, run.name, number, len(numbers), after)
            numbers.append(number)
            now = read_submission(places, run.name)
            views[run.name] = views[run.name]._replace(status="queued", submission=now)
        living.refuse("")
        return len(waiting)


def _number(view: RunView) -> str:
    assert view.submission is not None
    return view.submission.job


def _submit(plan: Plan, places: Places, run: PlannedRun, dependency: str) -> str:
    """Submit the job of a run; its number."""
    import submitit

    check_present()
    threads = plan.options.cpus or DEFAULTS["cpus"]
    try:
        executor = submitit.SlurmExecutor(places.engine, max_num_timeout=OFTEN)
        executor.update_parameters(**parameters(plan.options, run.name, dependency))
        return str(executor.submit(RunJob(str(places.out), run.name, threads, None)).job_id)
    except RuntimeError as error:
        raise UserError(f"sbatch refused the job of {run.name}: {short(error)}") from None


def cancel(numbers: list[str]) -> str:
    """Take jobs off the cluster; what `scancel` said if it failed, as it also does for jobs that have just ended."""
    try:
        if numbers:
            _ask("scancel", *numbers)
    except NoAnswer as error:
        return str(error)
    return ""
