"""What a job asks a SLURM cluster for: barm's own options of `sbatch`, and what ``--slurm`` adds or replaces.

Nothing here needs torch, or a cluster.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from barm.errors import UserError
from barm.jobs.local import SAVING
from barm.jobs.plan import JobOptions
from barm.words import natural

Extra = Mapping[str, str | Literal[True]]

LIMIT = 24 * 60  # minutes
DEFAULTS: Mapping[str, int] = {"gpus": 1, "cpus": 4, "time": LIMIT}
LEAVE = "leave it out"
WAITS = f"barm sets it for --jobs and for a shared step 0: {LEAVE}"
SAVES = f"barm sets it, so that a run saves and is queued again at the limit that --time says: {LEAVE}"
READ = f"barm reads what a job prints from a place of its own: {LEAVE}"
ANSWERS = f"barm needs the usual answer of sbatch: {LEAVE}"
REFUSED = {  # options of sbatch that would break a grid, with what to do instead
    "array": f"every run is a job of its own: {LEAVE}",
    "chdir": "runs train in the folder in which the command is given: give it there",
    "clusters": "only the cluster of this login node is asked about jobs: give the command on one of that cluster",
    "dependency": WAITS,
    "error": READ,
    "job-name": f"jobs are called as their runs: {LEAVE}",
    "kill-on-invalid-dep": WAITS,
    "no-requeue": SAVES,
    "open-mode": READ,
    "output": READ,
    "parsable": ANSWERS,
    "quiet": ANSWERS,
    "requeue": SAVES,
    "signal": SAVES,
    "test-only": ANSWERS,
    "time": "give --time, in minutes",
    "wait": ANSWERS,
    "wrap": f"a job is a run of the grid: {LEAVE}",
}
ONE = ("nodes", "ntasks", "ntasks-per-node")  # of which a run has one
CPUS = ("cpus-per-task", "cpus-per-gpu")
GPUS = ("gpus", "gpus-per-node", "gpus-per-socket", "gpus-per-task")
RESOURCES = ("gres", "tres-per-job", "tres-per-node", "tres-per-socket", "tres-per-task")  # GPUs, perhaps
MEMORY = ("mem", "mem-per-cpu", "mem-per-gpu")


def settled(options: JobOptions) -> JobOptions:
    """Options for a cluster with nothing left open, and those of `sbatch` by their long names.

    Raises:
        UserError: if `sbatch` is given an option that would break a grid.
    """
    extra = {_long(key): value for key, value in options.slurm.items()}
    for key, value in extra.items():
        _check(key, value)
    left = {key: value for key, value in DEFAULTS.items() if getattr(options, key) is None}
    threads = next((natural(str(extra[key])) for key in CPUS if key in extra), None)
    update = {**left, "slurm": extra} if threads is None else {**left, "slurm": extra, "cpus": threads}
    return options.model_copy(update=update)


def parameters(options: JobOptions, run: str, dependency: str) -> dict[str, Any]:
    """What submitit's executor is told about a job.

    Args:
        options: as `settled` returns them.
        run: its name.
        dependency: as `sbatch` takes it; empty for none.
    """
    extra, limit, cpus = options.slurm, options.time or LIMIT, options.cpus or DEFAULTS["cpus"]
    per_gpu = "cpus-per-gpu" in extra
    own: dict[str, Any] = {
        "job_name": f"barm-{run.replace('/', '-')}",
        "time": limit,
        "nodes": 1,
        "ntasks_per_node": 1,
        "cpus_per_task": None if per_gpu else cpus,
        "gpus_per_node": None if asks_for_gpus(extra) else options.gpus or None,
        "mem": None if any(key in extra for key in MEMORY) else _memory(options.memory),
        "partition": options.partition,
        "dependency": dependency or None,
        "signal_delay_s": min(SAVING, 30 * limit),
        # since SLURM 22.05 srun does not take the number over from sbatch
        "srun_args": [f"--cpus-per-{'gpu' if per_gpu else 'task'}={cpus}"],
        "additional_parameters": {
            "requeue": True,
            "kill-on-invalid-dep": "yes",
            **{key.replace("-", "_"): value for key, value in extra.items()},  # as submitit spells its own
        },
    }
    return {key: value for key, value in own.items() if value is not None}


def asks_for_gpus(extra: Extra) -> bool:
    """Whether options of `sbatch` say which GPUs a job has, so that barm need not.

    >>> asks_for_gpus({"gres": "gpu:a100:1"}), asks_for_gpus({"gres": "scratch:10"}), asks_for_gpus({"gpus": "1"})
    (True, False, True)
    """
    return any(key in extra for key in GPUS) or any("gpu" in str(extra.get(key, "")) for key in RESOURCES)


def _long(key: str) -> str:
    """An option of sbatch as sbatch spells it."""
    return key.strip().lstrip("-").replace("_", "-")


def _check(key: str, value: str | Literal[True]) -> None:
    """Refuse an option that would break a grid, also where it is cut short, as sbatch allows."""
    if len(key) < 2:
        raise UserError(f"--slurm takes the long names of sbatch's options, such as partition=gpu, got '{key}'")
    whole = next((name for name in REFUSED if name.startswith(key)), None)
    if whole is not None:
        raise UserError(f"--slurm {key} is not possible: {REFUSED[whole]}")
    if key in ONE and value != "1":
        raise UserError(f"--slurm {key}={value} is not possible: a run is one process; give 1, or {LEAVE}")
    if key in CPUS and not natural(str(value)):
        raise UserError(f"--slurm {key} expects a number above 0, got '{value}'")


def _memory(number: float | None) -> str | None:
    """GB as sbatch takes them, which knows no fractions."""
    if number is None:
        return None
    return f"{number:.0f}GB" if number == int(number) else f"{number * 1024:.0f}MB"
