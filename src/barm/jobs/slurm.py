"""Jobs on a SLURM cluster: submit them all, and ask which of them live. Nothing here needs torch."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterable, Mapping
from typing import Any

from filelock import FileLock

from barm.errors import UserError
from barm.jobs.local import OFTEN, SAVING, note
from barm.jobs.plan import Places, Plan, PlannedRun
from barm.jobs.states import RunView, read_submission, start_of, views_of
from barm.jobs.supervise import RunJob
from barm.reading import short
from barm.silence import no_warnings_logged

ASK = 30.0  # seconds between two questions to the cluster
KNOWN = 600.0  # seconds after which the accounting must know a job
QUEUED = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "CONFIGURING", "SUSPENDED", "PREEMPTED", "READY")


class Jobs:
    """Which submitted runs live on the cluster. Its answers are kept for a while."""

    def __init__(self, places: Places) -> None:
        self.places = places
        self.asked, self.known = 0.0, dict[str, str]()

    def __call__(self, views: Iterable[RunView]) -> Mapping[str, str]:
        """The living ones by their names: ``running`` or ``queued``."""
        submitted = [(view, view.submission.job) for view in views if view.submission is not None]
        numbers = [job for _, job in submitted]
        if submitted and (set(numbers) - self.known.keys() or time.monotonic() - self.asked > ASK):
            self.known = states_of(numbers)
            self.asked = time.monotonic()
        found = {view.run.name: self._living(view, self.known.get(job, "")) for view, job in submitted}
        return {name: status for name, status in found.items() if status is not None}

    def forget(self) -> None:
        """Ask anew next time."""
        self.asked, self.known = 0.0, {}

    def _living(self, view: RunView, word: str) -> str | None:
        if view.begun and view.state is not None and view.state.status in ("finished", "failed"):
            return None  # the cluster may not know it yet
        if word in QUEUED:
            return "queued"
        if word in ("RUNNING", "COMPLETING"):
            return "running" if view.begun and view.state and view.state.status == "running" else "queued"
        recent = view.submission is not None and time.time() - view.submission.when < KNOWN
        return "queued" if not word and recent and not view.begun else None


def states_of(jobs: list[str]) -> dict[str, str]:
    """SLURM's words for jobs by their numbers; empty for one that it does not know.

    Accounting (sacct) is asked through submitit; where a cluster has none, the queue.
    """
    import submitit

    with no_warnings_logged():
        watcher = type(submitit.SlurmJob.watcher)()
        for job in jobs:
            watcher.register_job(job)
        watcher.update()
        found = {job: watcher.get_state(job, mode="cache").split(" ")[0] for job in jobs}
    unknown = [job for job, word in found.items() if word == "UNKNOWN"]
    return {**found, **dict.fromkeys(unknown, ""), **(_queue(unknown) if unknown else {})}


def _queue(jobs: list[str]) -> dict[str, str]:
    """What the queue says about jobs; those that have ended are not in it."""
    try:
        done = subprocess.run(
            ["squeue", "--noheader", "--me", "--format=%A %T"], capture_output=True, text=True, check=False
        )
    except OSError:
        return {}
    words = dict(line.split()[:2] for line in done.stdout.splitlines() if len(line.split()) > 1)
    return {job: words[job] for job in jobs if job in words}


def submit_waiting(plan: Plan, places: Places, living: Jobs) -> int:
    """Submit every run that waits; their number. A run that takes over step 0 waits for the job that trains it.

    Raises:
        UserError: if there is no SLURM, or it refuses a job.
    """
    with FileLock(places.lock("submit")):
        views = {view.run.name: view for view in views_of(plan, places, living)}
        numbers = [_number(view) for view in views.values() if view.status in ("running", "queued")]
        waiting = [view.run for view in views.values() if view.status == "waiting"]
        for run in waiting:
            start = start_of(run, views, places)
            after = "" if start is None else f"afterok:{_number(views[start])}"
            conditions = [after] if after else []
            if plan.options.jobs is not None and len(numbers) >= plan.options.jobs:
                conditions.append(f"afterany:{numbers[-plan.options.jobs]}")
            number = _submit(plan, places, run, ",".join(conditions))
            note(places, run.name, number, len(numbers), after)
            numbers.append(number)
            now = read_submission(places, run.name)
            views[run.name] = views[run.name]._replace(status="queued", submission=now)
        return len(waiting)


def _number(view: RunView) -> str:
    assert view.submission is not None
    return view.submission.job


def _submit(plan: Plan, places: Places, run: PlannedRun, dependency: str) -> str:
    """Submit the job of a run; its number."""
    import submitit
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    options = plan.options
    limit, cpus = options.time or 24 * 60, options.cpus or 1
    parameters: dict[str, Any] = {
        "job_name": f"barm-{run.name.replace('/', '-')}",
        "time": limit,
        "nodes": 1,
        "ntasks_per_node": 1,
        "cpus_per_task": cpus,
        "gpus_per_node": options.gpus or None,
        "mem": f"{options.memory:g}GB" if options.memory else None,
        "partition": options.partition,
        "dependency": dependency or None,
        "signal_delay_s": min(SAVING, 30 * limit),
        "additional_parameters": {"requeue": True, "kill-on-invalid-dep": "yes", **options.slurm},
    }
    try:
        executor = submitit.SlurmExecutor(places.engine, max_num_timeout=OFTEN)
        executor.update_parameters(**{k: v for k, v in parameters.items() if v is not None})
        return str(executor.submit(RunJob(str(places.out), run.name, cpus, None)).job_id)
    except RuntimeError as error:
        if isinstance(error, FailedJobError | FailedSubmissionError) or "srun" not in str(error):
            raise UserError(f"sbatch refused the job of {run.name}: {short(error)}") from None
        raise UserError("no SLURM on this machine (no srun): use --on local, or a login node of the cluster") from None


def cancel(numbers: list[str]) -> None:
    """Take jobs off the cluster."""
    if numbers:
        subprocess.run(["scancel", *numbers], capture_output=True, check=False)
