"""`barm` alone: suggest the next command, from the runs in ./runs."""

from __future__ import annotations

import json
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from barm.cli.common import out, say
from barm.cli.completion import find_runs, finished
from barm.escaping import command, word
from barm.words import count

RUNS, MOST = Path("runs"), 4  # where runs are looked for, how many are compared
ABOUT = "Teach a segmentation model new classes without the old images."
WITH_RUN = {  # command: its words and what they do; shown as far as the command exists
    "evaluate": (" {run}", "scores of every class"),
    "report": (" {run}", "a page to look at: what it learned, what it forgot"),
    "predict": (" {run} IMAGE --out seen", "masks and overlays of your images"),
    "serve": (" {run}", "try it in the browser"),
    "extend": (" {run} --data DIR --classes NAME", "teach it another class"),
}
WITHOUT_RUN = {
    "demo": ("", "all of it on generated images, about five minutes"),
    "data check": (" DIR", "look at every file of a data set of your own"),
    "train": (" --recipe folder/barm --data DIR --task 5-1", "5 classes, then one at a time"),
}


def version(value: bool) -> None:
    """Print the version and end."""
    if value:
        import barm

        say(f"barm {barm.__version__}")
        raise typer.Exit


def start(
    ctx: typer.Context,
    _version: Annotated[
        bool, typer.Option("--version", help="Show the version and end.", callback=version, is_eager=True)
    ] = False,
) -> None:
    """Teach a segmentation model new classes without the old images.

    Example: barm demo
    """
    if ctx.invoked_subcommand is not None:
        return
    commands: Any = ctx.command
    for line in advice(RUNS, commands.commands):
        say(line)


def advice(runs: Path, commands: Collection[str]) -> list[str]:
    """Suggest what to do next, line by line.

    Args:
        runs: folder in which runs are looked for.
        commands: names of all commands.
    """
    found = list(find_runs(runs))
    newest = max(found, key=_changed, default=None)
    if newest is None:
        return [ABOUT, "", *_listed("", WITHOUT_RUN, commands), "", "All commands: barm --help"]
    done, details = finished(newest), _details(newest)
    lines = [f"The newest run is {newest}{details}."]
    total = _total(newest)
    if total is None or len(done) < total:
        lines += [
            f"It has finished {len(done)} of {count(total, 'steps')}; go on with"
            if total
            else "It has finished no step; go on with",
            f"  {_going_on(newest)}",
        ]
    if done:
        beside = sorted(run for run in found if run.parent == newest.parent and finished(run))[:MOST]
        table = dict(WITH_RUN)
        if len(beside) > 1:
            table["compare"] = (f" {command(beside)}", "beside each other")
        lines += ["", *_listed(str(newest), table, commands)]
    return [*lines, "", "All commands: barm --help"]


def _going_on(run: Path) -> str:
    """The command that resumes a stopped run."""
    with suppress(OSError, ValueError):
        seed = int((run.parent / ".demo").read_text("utf-8"))
        if not (run.parent / "report.html").exists():
            where = "" if run.parent == RUNS / "demo" else f" --out {word(run.parent)}"
            return f"barm demo{where}" + (f" --seed {seed}" if seed != 1 else "")
    return command(["barm", "train", "--out", run, "--resume"])


def _listed(run: str, table: dict[str, tuple[str, str]], commands: Collection[str]) -> list[str]:
    """Commands with their summaries, side by side where the terminal is wide enough."""
    rows = [
        (f"  barm {name}{words.replace('{run}', word(run))}", what)
        for name, (words, what) in table.items()
        if name.split()[0] in commands
    ]
    width = max((len(command) for command, _ in rows), default=0)
    if width + 3 + max((len(what) for _, what in rows), default=0) <= out.width:
        return [f"{command:{width}}   {what}" for command, what in rows]
    return [line for command, what in rows for line in (command, f"      {what}")]


def _changed(run: Path) -> float:
    """Time of the last change in a run's folder."""
    return max(p.stat().st_mtime for p in (run, run / "config.toml", *run.glob("step*")))


def _details(run: Path) -> str:
    """A run's method and score, if they are stored."""
    with suppress(OSError, ValueError, KeyError, IndexError):
        step = run / f"step{finished(run)[-1]:02d}"
        method = json.loads((step / "method.json").read_text("utf-8"))
        metrics = json.loads((step / "metrics.json").read_text("utf-8"))
        share = metrics["miou"]["all"]  # none where the images label only some of the classes
        score = "" if share is None else f", mIoU {100 * share:.1f} %"
        return f" ({method['method']['name']}, {count(len(method['classes']) - 1, 'classes')}{score})"
    return ""


def _total(run: Path) -> int | None:
    """Number of steps of a run's task, once one is finished."""
    with suppress(OSError, ValueError, KeyError, IndexError):
        step = run / f"step{finished(run)[-1]:02d}"
        return int(json.loads((step / "method.json").read_text("utf-8"))["num_steps"])
    return None
