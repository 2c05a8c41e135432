"""Train a grid on many devices or machines: plan and start it, look at it, wait for it, stop it."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from filelock import FileLock

from barm.errors import Failed, Stopped, UserError
from barm.grid import check_data, check_settings, data_root, each_run, is_finished
from barm.grid_file import Cell, GridConfig, alike, cells
from barm.jobs import local, sbatch, slurm
from barm.jobs.local import cores, ensure_keeper
from barm.jobs.plan import JobOptions, Places, Plan, PlannedRun, read_plan, write_record
from barm.jobs.states import RunState, RunView, is_held, last_line, read_state, views_of
from barm.reading import real
from barm.words import count

PAUSE = 1.0  # seconds between two looks
PATIENCE = 120.0  # seconds for cancelled runs to save and end
TRIES = 3  # to start a keeper


def submit_grid(
    grid: GridConfig, out: Path | str, data: Path | str | None = None, options: JobOptions | None = None
) -> list[RunView]:
    """Start the missing runs of a grid as jobs, and return at once. Failed and cancelled ones are tried again.

    Args:
        grid: the runs.
        out: folder for the runs, and for generated data.
        data: the data set's folder, unless the grid generates one.
        options: where, and with what; on this machine by default.

    Returns:
        The runs as they stand.

    Raises:
        UserError: if the options do not fit this machine, a run's settings or data are wrong, another grid's runs are
            being trained there, or the cluster refuses the first job. Nothing was started then.
    """
    check_installed()
    places, options = Places(real(Path(out))), options or JobOptions()
    options, devices = _settled(options)
    if options.on == "slurm":
        slurm.check_present()
    gpus = options.gpus or sbatch.asks_for_gpus(options.slurm)
    check_settings(grid, places.out, gpus=bool(gpus))
    root = data_root(grid, places.out, None if data is None else Path(data))
    check_data(grid, places.out, root)
    plan = Plan(
        grid=grid.model_dump(mode="json"),
        root=str(real(root)),
        host=socket.gethostname(),
        cwd=os.getcwd(),
        options=options,
        devices=devices,
        runs=_planned(grid, places.out),
    )
    living = jobs_of(plan, places)
    with FileLock(places.lock("submit")):
        _check_free(plan, places)
        is_first = not places.plan.exists()
        places.cancelled.unlink(missing_ok=True)
        for view in views_of(plan, places, living):
            if view.status not in ("running", "queued"):
                _renew(view, places)
        write_record(places.plan, plan)
    try:
        return advance(plan, places, living)
    except UserError:
        if is_first and not any(places.of(run.name, ".job.json").exists() for run in plan.runs):
            places.plan.unlink()
        raise


def grid_status(out: Path | str) -> list[RunView]:
    """The runs of a grid that was started as jobs. What a dead keeper or submitter left is started again.

    Args:
        out: the grid's folder.

    Raises:
        UserError: if there are no jobs.
    """
    places, plan = _at_work(out)
    return advance(plan, places, jobs_of(plan, places))


def cancel_grid(out: Path | str) -> list[RunView]:
    """Stop the runs of a grid that was started as jobs; they save their states. `submit_grid` goes on with them.

    Args:
        out: the grid's folder.

    Raises:
        UserError: if there are no jobs.
        Failed: if runs did not stop in two minutes.
    """
    places, plan = _at_work(out)
    places.of("cancelled", "").touch()  # the keeper and the jobs look for it
    living, refusal = jobs_of(plan, places), ""
    if plan.options.on == "slurm":
        with FileLock(places.lock("submit")):
            found = views_of(plan, places, living)
            jobs = [v.submission.job for v in found if v.status in ("running", "queued") and v.submission]
            refusal = slurm.cancel(jobs)
    began = time.monotonic()
    look = began + PAUSE
    while True:
        late = time.monotonic() > began + PATIENCE
        if isinstance(living, slurm.Jobs) and (late or time.monotonic() > look):
            living.forget()
            look += time.monotonic() - began  # the cluster is asked after 1, 2, 4, 8, ... seconds
        views = views_of(plan, places, living)
        alive = [view.run.name for view in views if not view.is_over]
        if not alive:
            return views
        if late:
            why = f" ({refusal})" if refusal else ""
            raise Failed(
                f"{count(len(alive), 'runs')} did not stop in {PATIENCE:.0f} s{why}, the first: {alive[0]}; give the "
                "same command again"
            )
        time.sleep(PAUSE)


def wait_for_grid(out: Path | str, show: Callable[[list[RunView]], None], again: str) -> None:
    """Wait until nothing of a grid is left to do, and start again what was killed.

    Args:
        out: the grid's folder.
        show: called with the runs as they stand, about once a second.
        again: how to look at the runs later, for messages.

    Raises:
        Stopped: at Ctrl-C; the runs go on.
        Failed: if they cannot be started.
    """
    places = Places(real(Path(out)))
    plan = read_plan(places)
    living, tries, before = jobs_of(plan, places), 0, list[str]()
    try:
        while True:
            views = _annotated(plan, places, living)
            show(views)
            if all(view.is_over for view in views):
                return
            now = [view.status for view in views]
            tries, before = tries if now == before else 0, now
            tries += start_missing(plan, places, living, views)
            if tries > TRIES:
                log = places.of("keeper", ".log")
                raise Failed(f"the process that starts the runs ends at once: {last_line(log)}; see {log}")
            time.sleep(PAUSE)
    except KeyboardInterrupt:
        raise Stopped(f"the runs go on without this command: {again}", signal.SIGINT) from None


def collect(
    grid: GridConfig, out: Path | str, data: Path | str | None, say: Callable[[str], None]
) -> tuple[list[Path], list[str], list[str]]:
    """What became of a grid's runs; nothing is trained.

    Args:
        grid: the runs.
        out: their folder.
        data: the data set's folder, unless the grid generates one.
        say: called with a line on every run that is not finished.

    Returns:
        As `barm.run_grid` does, and the names of the cancelled runs.
    """
    places = Places(real(Path(out)))
    plan = read_plan(places)
    views = {view.run.name: view for view in views_of(plan, places, jobs_of(plan, places))}

    def explain(cell: Cell) -> None:
        view = views[cell.name()]
        raise Failed(view.why(places) if view.status == "failed" else f"it is {view.status}")

    cancelled = [name for name, view in views.items() if view.status == "cancelled"]
    for name in cancelled:
        say(f"cancelled: {name}")
    rest = grid.model_copy(update={"skip": (*grid.skip, *cancelled)})
    return *each_run(rest, Path(out), Path(plan.root), explain, say, generated=data is None), cancelled


def advance(plan: Plan, places: Places, living: local.Jobs | slurm.Jobs) -> list[RunView]:
    """Start what is to be started now, and return the runs as they stand then."""
    start_missing(plan, places, living, views_of(plan, places, living))
    return _annotated(plan, places, living)


def _annotated(plan: Plan, places: Places, living: local.Jobs | slurm.Jobs) -> list[RunView]:
    """The runs as they stand, with a note on those that the cluster does not take for now."""
    views = views_of(plan, places, living)
    refusal = living.refusal if isinstance(living, slurm.Jobs) else ""
    return [view._replace(note=refusal) if view.status == "waiting" else view for view in views]


def start_missing(plan: Plan, places: Places, living: local.Jobs | slurm.Jobs, views: list[RunView]) -> bool:
    """Start a keeper if there is none, or submit what waits to the cluster; whether there was something to do."""
    if all(view.is_over for view in views) or places.cancelled.exists():
        return False
    if isinstance(living, local.Jobs):
        return ensure_keeper(places)
    waits = any(view.status == "waiting" for view in views) and not living.pauses
    return waits and slurm.submit_waiting(plan, places, living) > 0


def jobs_of(plan: Plan, places: Places) -> local.Jobs | slurm.Jobs:
    """Who tells which runs live."""
    return slurm.Jobs(places) if plan.options.on == "slurm" else local.Jobs(places)


def check_installed() -> None:
    """Refuse to go on without submitit, or where it does not work."""
    if os.name == "nt":
        raise UserError("jobs need Unix's signals: leave --on out, and the runs are trained one after the other")
    if find_spec("submitit") is None:
        raise UserError("runs as jobs need submitit, which is not installed: pip install 'barm-seg[cluster]'")


def _at_work(out: Path | str) -> tuple[Places, Plan]:
    """The plan of jobs that were started, which must have been on this machine unless they are on a cluster."""
    places = Places(real(Path(out)))
    plan = read_plan(places)
    check_installed()
    if plan.options.on == "local" and plan.host != socket.gethostname():
        raise UserError(f"the jobs in {places.out} were started on {plan.host}: give this command there")
    if plan.options.on == "slurm":
        slurm.check_present()
    return places, plan


def _settled(options: JobOptions) -> tuple[JobOptions, tuple[str, ...]]:
    """The options with nothing left open, and the GPUs of this machine that runs on it share."""
    if options.on == "slurm":
        return sbatch.settled(options), ()
    for name in ("memory", "partition", "slurm"):
        if getattr(options, name):
            raise UserError(f"--{name} is for a cluster: leave it out, or say --on slurm")
    devices = _devices() if options.gpus != 0 else ()
    if options.gpus and not devices:
        raise UserError("--gpus 1, but no GPU is visible here: leave it out, or check the driver")
    jobs = options.jobs or len(devices) or 1
    if devices and jobs > len(devices):
        raise UserError(f"--jobs {jobs}, but {count(len(devices), 'GPUs')} here: give at most as many, or --gpus 0")
    cpus = options.cpus or max(1, cores() // jobs)
    return options.model_copy(update={"gpus": int(bool(devices)), "jobs": jobs, "cpus": cpus}), devices


def _devices() -> tuple[str, ...]:
    """The GPUs of this machine as CUDA_VISIBLE_DEVICES names them."""
    import torch

    number = torch.cuda.device_count()
    visible = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return tuple(visible[:number] or map(str, range(number)))


def _planned(grid: GridConfig, out: Path) -> tuple[PlannedRun, ...]:
    """The runs in the order of the grid."""
    runs, planned = [], {cell.name() for cell in cells(grid)}
    for cell in cells(grid):
        before = grid.methods[: grid.methods.index(cell.method)]
        names = (cell.name(method) for method in before if method in alike(grid, cell.method))
        starts = tuple(name for name in names if name in planned)
        finished = is_finished(out / cell.name())
        runs.append(PlannedRun(name=cell.name(), **cell._asdict(), finished=finished, starts=starts))
    return tuple(runs)


def _check_free(plan: Plan, places: Places) -> None:
    """Refuse to change the plan of runs that are being trained in another way than planned now."""
    if not places.plan.exists():
        return
    there = read_plan(places)
    same = (there.grid, there.root, there.options.on) == (plan.grid, plan.root, plan.options.on)
    if same or not _is_at_work(there, places):
        return
    raise UserError(
        f"{places.out}: jobs of another grid, or started in another way, are at work there; wait for them, stop them "
        "with --cancel, or choose another --out"
    )


def _is_at_work(plan: Plan, places: Places) -> bool:
    """Whether the job of a run lives, or a keeper that will start one."""
    views = views_of(plan, places, jobs_of(plan, places))
    lives = any(view.status in ("running", "queued") for view in views)
    return lives or (is_held(places.lock("keeper")) and not all(view.is_over for view in views))


def _renew(view: RunView, places: Places) -> None:
    """Forget failures and submissions of a run none of whose jobs lives, and a state whose run was removed."""
    name = view.run.name
    places.of(name, ".job.json").unlink(missing_ok=True)
    state = read_state(places, name)
    if state is None or view.run.finished:
        return
    path = places.of(name, ".state.json")
    if not (places.out / name).is_dir():
        path.unlink()
        return
    seconds = state.seconds + (state.ended or state.began) - state.began
    fresh: dict[str, object] = {"status": "stopped", "failures": 0, "ended": state.began, "seconds": seconds}
    write_record(path, RunState.model_validate({**state.model_dump(), **fresh}))
