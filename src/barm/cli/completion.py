"""Completions of the shell. They run at every Tab, so they read names and small files and import nothing heavy."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

DEPTH, MOST = 3, 4000  # levels, and folders, that are searched for runs
STATIC: dict[str, tuple[str, ...]] = {
    "write": ("mask", "colour", "overlay"),
    "part": ("step", "losses", "evaluation", "loader", "constant", "launch", "memory", "growth", "profile"),
}


def recipes(incomplete: str) -> list[str]:
    """Recipes and TOML files that begin with the word; without a task where any other task is meant."""
    from barm.catalogue import recipe_names

    files = [p for p in _beside(incomplete) if p.endswith((".toml", "/"))]
    return [*(name for name in recipe_names() if name.startswith(incomplete)), *(f for f in files if incomplete)]


def runs(incomplete: str) -> list[str]:
    """Run folders below the path typed so far."""
    base = Path(incomplete).parent if "/" in incomplete else Path()
    start = Path(incomplete) if incomplete.endswith("/") else base
    return sorted(p for p in (str(run) for run in find_runs(start)) if p.startswith(incomplete))


def steps(ctx: typer.Context, incomplete: str) -> list[str]:
    """Finished steps of the run on the command line."""
    return [n for n in map(str, finished(_run_of(ctx))) if n.startswith(incomplete)]


def classes(ctx: typer.Context, incomplete: str) -> list[str]:
    """Classes that the run knows at its last or the given step; of a list, the last word is completed."""
    run, done = _run_of(ctx), finished(_run_of(ctx))
    if not done:
        return []
    step = ctx.params.get("step")
    record = json.loads((run / f"step{done[-1] if step is None else step:02d}" / "method.json").read_text("utf-8"))
    return _listed([c["name"] for c in record["classes"][1:]], incomplete)


def parts(incomplete: str) -> list[str]:
    """Parts of the benchmark."""
    return [p for p in STATIC["part"] if p.startswith(incomplete)]


def kinds(incomplete: str) -> list[str]:
    """Kinds of files that `barm predict` writes."""
    return _listed(STATIC["write"], incomplete)


def find_runs(start: Path) -> Iterator[Path]:
    """Folders with a run's configuration, at most a few levels below `start`."""
    for visited, (place, folders, files) in enumerate(os.walk(start, followlinks=True)):
        here = Path(place)
        if "config.toml" in files:
            yield here
        depth = len(here.parts) - len(start.parts)
        folders[:] = [] if depth >= DEPTH or "config.toml" in files else [f for f in folders if not f.startswith(".")]
        if visited > MOST:
            return


def finished(run: Path) -> list[int]:
    """Indices of a run's finished steps, ascending."""
    return sorted(int(p.name[4:]) for p in run.glob("step[0-9]*") if p.name[4:].isdigit())


def _run_of(ctx: typer.Context) -> Path:
    """The run on the command line. An option without its value keeps click from assigning the words before it."""
    params: dict[str, Any] = ctx.params
    found = params.get("run") or next((word for word in ctx.args if Path(word, "config.toml").is_file()), ".")
    return Path(found)


def _listed(names: list[str] | tuple[str, ...], incomplete: str) -> list[str]:
    """Completions of the last word of a list separated by commas."""
    before, comma, last = incomplete.rpartition(",")
    taken = before.split(",")
    return [f"{before}{comma}{name}" for name in names if name.startswith(last) and name not in taken]


def _beside(incomplete: str) -> list[str]:
    """Files and folders (with a slash) that begin with the word."""
    folder = Path(incomplete).parent if not incomplete.endswith("/") else Path(incomplete)
    if not folder.is_dir():
        return []
    found = (str(p) + "/" * p.is_dir() for p in folder.iterdir() if not p.name.startswith("."))
    return sorted(p for p in found if p.startswith(incomplete))
