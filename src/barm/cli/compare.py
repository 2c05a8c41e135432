"""The command `barm compare`, with grids of runs on many devices."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from barm.cli import completion
from barm.cli.common import Json, Quiet, Settings, out, print_json, progress, quick_imports, say
from barm.errors import Stopped, UserError
from barm.words import count, verb

if TYPE_CHECKING:
    from barm.grid_file import GridConfig
    from barm.report.compare import Row

Runs = Annotated[
    list[Path] | None,
    typer.Argument(
        help="Folders that `barm train` wrote, or a compare.json; a grid does not train what is in them.",
        autocompletion=completion.runs,
    ),
]
Trained = tuple[list[Path], list[str], list[str]]  # finished runs, a line for every failed one, names of cancelled ones
Quick = Annotated[bool, typer.Option("--quick", help="Train what the grid's table `quick` says.")]
JOBS = "A grid on many devices or machines"
On = Annotated[
    Literal["local", "slurm"] | None,
    typer.Option("--on", rich_help_panel=JOBS, help="A job per run: on this machine, or on a SLURM cluster."),
]
Jobs = Annotated[
    int | None,
    typer.Option(
        min=1, rich_help_panel=JOBS, help="Runs at the same time; by default one per GPU here, no limit on a cluster."
    ),
]
Gpus = Annotated[
    int | None,
    typer.Option(min=0, max=1, rich_help_panel=JOBS, help="GPUs of a run; 1 by default, or 0 where none is here."),
]
Cpus = Annotated[
    int | None,
    typer.Option(
        min=1,
        rich_help_panel=JOBS,
        help="Threads of a run; 4 by default on a cluster, here the cores divided by --jobs.",
    ),
]
Memory = Annotated[
    float | None,
    typer.Option(min=0.1, rich_help_panel=JOBS, help="GB of a run, on a cluster; its own default holds otherwise."),
]
Time = Annotated[
    int | None,
    typer.Option(
        min=1,
        rich_help_panel=JOBS,
        help="Minutes of a job; then it saves and is queued again; 1440 by default on a cluster, no limit here.",
    ),
]
Partition = Annotated[
    str | None, typer.Option(rich_help_panel=JOBS, help="Of the cluster; its own default holds otherwise.")
]
Slurm = Annotated[
    list[str] | None,
    typer.Option(rich_help_panel=JOBS, help="An option of sbatch, e.g. account=vision or exclusive (may be repeated)."),
]
Status = Annotated[bool, typer.Option("--status", rich_help_panel=JOBS, help="Show the jobs; start what was killed.")]
Cancel = Annotated[bool, typer.Option("--cancel", rich_help_panel=JOBS, help="Stop the jobs; they save their states.")]


def compare(
    runs: Runs = None,
    grid: Annotated[Path | None, typer.Option(help="A TOML file: methods x tasks x seeds to train first.")] = None,
    data: Annotated[Path | None, typer.Option(help="The grid's data set.")] = None,
    override: Settings = None,
    quick: Quick = False,
    folder: Annotated[Path | None, typer.Option("--out", help="Where tables, the chart and a grid's runs go.")] = None,
    published: Annotated[
        str | None,
        typer.Option(help="Published results of a task beside them: voc/15-1, ade/100-10, voc/15-1/disjoint."),
    ] = None,
    on: On = None,
    jobs: Jobs = None,
    gpus: Gpus = None,
    cpus: Cpus = None,
    memory: Memory = None,
    time: Time = None,
    partition: Partition = None,
    slurm: Slurm = None,
    status: Status = False,
    cancel: Cancel = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compare runs: one table, and with --out CSV, JSON, Markdown, LaTeX and a chart. A grid trains what is missing.

    Example: barm compare --grid benchmarks/shapes-small.toml --out runs/small
    """
    options = {"jobs": jobs, "gpus": gpus, "cpus": cpus, "memory": memory, "time": time, "partition": partition}
    given = {name: value for name, value in {**options, "slurm": slurm}.items() if value not in (None, [])}
    _check_words(grid, on, given, {"set": override, "quick": quick}, status=status, cancel=cancel)
    with quick_imports():
        from barm.grid import without_known
        from barm.grid_file import read_grid
        from barm.report.compare import summarise, to_json, write_comparison
        from barm.report.published import find_published
        from barm.report.results import read_results

    if not runs and grid is None and published is None:
        raise UserError("nothing to compare: give folders of runs, --grid FILE, or --published voc/15-1")
    beside = [] if published is None else find_published(published)
    paths, failed, cancelled = list(runs or []), list[str](), list[str]()
    known = read_results(paths)  # complains before a grid works for hours
    if grid is not None:
        folder = folder or Path("runs") / f"{grid.stem}{'-quick' if quick else ''}"
        if status or cancel:
            _show_jobs(folder, as_json=as_json, cancel=cancel)
            return
        wanted = without_known(read_grid(grid, override or (), quick=quick), known, folder, data)
        train = _trainer(on, given, grid, folder, wanted)
        trained, failed, cancelled = train(wanted, folder, data, progress(quiet), quiet=quiet)
        paths += trained
    results = read_results(paths)
    rows = summarise(results)
    if as_json:
        print(to_json(results, rows, beside), end="")
    else:
        _show(rows, published)
    for path in () if folder is None or not paths else write_comparison(folder, results):
        if not as_json:
            say(str(path))
    _end(failed, cancelled)


def _end(failed: Sequence[str], cancelled: Sequence[str]) -> None:
    """Say at the end which runs of a grid are missing."""
    number = len(cancelled)
    them = "it" if number == 1 else "them"
    stopped = f"{count(number, 'runs')} {verb(number, 'were')} cancelled: the same command goes on with {them}"
    if failed:
        more = f"; {stopped}" if cancelled else ""
        raise UserError(f"{count(len(failed), 'runs')} failed, the first: {failed[0]}{more}")
    if cancelled:
        raise Stopped(stopped, signal.SIGTERM)


def _check_words(
    grid: Path | None, on: str | None, given: dict[str, Any], of_grid: dict[str, Any], *, status: bool, cancel: bool
) -> None:
    """Refuse options that say nothing without others."""
    of_grid = {name: value for name, value in of_grid.items() if value}
    if grid is None and (on or given or of_grid or status or cancel):
        first = next(iter([*given, *of_grid]), "status" if status else "cancel" if cancel else "on")
        raise UserError(f"--{first} is about the runs of a grid: give --grid FILE too")
    if given and on is None:
        raise UserError(f"--{next(iter(given))} is about jobs: say --on local or --on slurm too")
    if (status or cancel) and (on or (status and cancel)):
        raise UserError("give one of --on, --status and --cancel")


def _trainer(
    on: str | None, given: dict[str, Any], grid: Path, folder: Path, wanted: GridConfig
) -> Callable[..., Trained]:
    """What trains the missing runs: this process, or jobs if there are any runs for them."""
    from barm.grid import run_grid
    from barm.grid_file import cells

    if on is None or not cells(wanted):
        return lambda *words, **more: (*run_grid(*words, **more), [])
    return _on(on, given, f"barm compare --grid {grid} --out {folder} --status")


def _on(on: str, given: dict[str, Any], again: str) -> Callable[..., Trained]:
    """A function that trains the missing runs as jobs."""
    from barm.jobs.control import collect, submit_grid, wait_for_grid
    from barm.jobs.plan import JobOptions
    from barm.jobs.table import watched

    pairs = dict[str, str | Literal[True]]()
    for text in given.pop("slurm", []):
        key, sign, value = text.partition("=")
        if not key or (sign and not value):
            raise UserError(f"--slurm expects key=value such as account=vision, or a flag as exclusive, got '{text}'")
        pairs[key] = value if sign else True

    def train(grid: GridConfig, folder: Path, data: Path | None, say: Callable[[str], None], *, quiet: bool) -> Trained:
        submit_grid(grid, folder, data, JobOptions.model_validate({"on": on, **given, "slurm": pairs}))
        with watched(folder, quiet) as show:
            wait_for_grid(folder, show, f"{again} shows them, --cancel stops them")
        return collect(grid, folder, data, say)

    return train


def _show_jobs(folder: Path, *, as_json: bool, cancel: bool) -> None:
    """Print how the runs of a grid stand, after a cancellation if `cancel`."""
    from barm.jobs.control import cancel_grid, grid_status
    from barm.jobs.plan import Places
    from barm.jobs.table import as_json as to_json
    from barm.jobs.table import remarks, status_table

    views = (cancel_grid if cancel else grid_status)(folder)
    if as_json:
        print_json(to_json(folder, views))
        return
    out.print(status_table(folder, views))
    for view in views:
        if view.status == "failed":
            say(f"{view.run.name}: {view.why(Places(folder))}")
    for line in remarks(views):
        say(line)


def _show(rows: Sequence[Row], published: str | None) -> None:
    """Print the table of one's own runs, and the published results of their task."""
    from barm.report.compare import tables
    from barm.report.published import published_table

    for part in tables(rows) if rows else ():
        out.print(part)
    for part in () if published is None else published_table(published, rows):
        out.print(part)
