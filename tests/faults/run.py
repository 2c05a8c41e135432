"""Injects faults into every phase of the program, and prints what became of them.

``python tests/faults/run.py`` runs the whole campaign, ``--every 9`` each ninth cell, ``--phase`` and ``--fault`` some.
After a fault every file must be as it was or as it should become, and the command, given again, must lead to the result
of an undisturbed one, bit for bit; a file that is damaged is named in one line, or what is computed is right all the
same. ``lost``: neither is so. ``silent``: a result is wrong and nobody is told. The status is 1 where any is. A full
disk needs the right to mount a tmpfs, which root has; without it these cells are ``impossible``, and counted as such.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import pkgutil
import platform
import subprocess
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from cells import ARCHIVES, Bench, Impossible, Outcome
from kinds import FAULTS, Fault
from material import make_material, sibling
from phases import PHASES, Phase

import barm
from barm import writing
from barm.engine.checkpoint import checksums, directory
from barm.engine.checkpoint.directory import RunDirectory
from forked import Forked

RESULTS = ("survived", "named", "lost", "silent", "missed", "impossible")
TRIES = 4  # of a cell whose fault did not come about, each with another seed


class Cell(NamedTuple):
    """A phase, a fault, a number."""

    phase: Phase
    fault: Fault
    number: int


def cells(phase: str | None = None, fault: str | None = None, most: int = 5) -> list[Cell]:
    """All cells: every fault that applies to a phase, as often as it is to be injected."""
    pairs = [
        (p, f) for p in PHASES for f in FAULTS if f.fits(p) and phase in (None, p.name) and fault in (None, f.name)
    ]
    return [Cell(p, f, i) for p, f in pairs for i in range(min(f.times, most))]


def run_cell(bench: Bench, cell: Cell, seed: int) -> tuple[Outcome, int]:
    """Run a cell; another seed where the fault did not come about. The outcome, and the seed."""
    outcome = Outcome("missed")
    for attempt in range(TRIES):
        text = f"{seed} {cell.phase.name} {cell.fault.name} {attempt}"
        own = 6 * (zlib.crc32(text.encode()) % 100_000 + cell.number) + cell.number  # the number chooses the way
        try:
            outcome = cell.fault.inject(bench, cell.phase, own)
        except Impossible as error:
            return Outcome("impossible", str(error)), own
        except subprocess.TimeoutExpired:
            outcome = Outcome("lost", "a process does not come to an end")
        if outcome.result != "missed":
            return outcome, own
    return outcome, own


def load() -> None:
    """Import what commands import late, once for all processes that are forked from this one."""
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    for module in pkgutil.walk_packages(barm.__path__, "barm."):
        if not module.name.startswith(("barm.app", "barm.bench", "barm.demo")) and "__main__" not in module.name:
            try:
                importlib.import_module(module.name)
            except ImportError:
                continue


def break_down(what: str) -> None:
    """Take a precaution out of the program, for the tests of the campaign itself: it must see that.

    Args:
        what: ``steps`` are written in their places, nothing is brought to the disk (``flush``), no ``checksums`` are
            compared.
    """

    @contextmanager
    def in_place(self: RunDirectory, index: int) -> Iterator[Path]:
        self.step_path(index).mkdir()
        yield self.step_path(index)

    if what == "steps":
        RunDirectory._appearing = in_place  # type: ignore[method-assign]
    elif what == "flush":
        for module in (writing, checksums, directory):
            module.sync = lambda path: None  # type: ignore[attr-defined]
    elif what == "checksums":
        checksums.check = checksums.check_archive = lambda path: None
        checksums.check_seal = lambda text, path: None


def serve(place: Path) -> None:
    """Give out the archives; the address goes into a file."""
    server = sibling(Path(__file__).parents[1] / "data/archive_server.py")
    with server.running() as host:
        for name in ARCHIVES:
            host.files[f"/{name}"] = (place / "material" / name).read_bytes()
        (place / "host.tmp").write_text(host.address)
        (place / "host.tmp").rename(place / "host")
        while os.getppid() != 1:
            time.sleep(0.2)


def provenance(seed: int) -> dict[str, Any]:
    """Where the numbers come from."""
    commit = subprocess.run(["git", "describe", "--always", "--dirty=+"], capture_output=True, text=True, check=False)
    return {
        "commit": commit.stdout.strip(),
        "seed": seed,
        "data": "generated shapes, 16 + 4 images of 48 pixels; see tests/faults/material.py",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": platform.platform(),
        "processors": os.cpu_count(),
    }


def main() -> int:
    """Run the cells and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--most", type=int, default=5, help="injections of a fault into a phase")
    parser.add_argument("--phase", choices=[p.name for p in PHASES])
    parser.add_argument("--fault", choices=[f.name for f in FAULTS])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="a folder for faults.json and faults.md")
    parser.add_argument("--broken", choices=["steps", "flush", "checksums"], help="a test of the campaign itself")
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    began, records, origin = time.monotonic(), list[dict[str, Any]](), provenance(options.seed)
    load()
    if options.broken:
        break_down(options.broken)
    with tempfile.TemporaryDirectory() as name:
        place = Path(os.path.realpath(name))
        (place / "material").mkdir()
        make_material(place / "material")
        host = Forked(lambda: serve(place))
        while not (place / "host").exists():
            time.sleep(0.01)
        bench = Bench(place, (place / "host").read_text())
        try:
            for cell in cells(options.phase, options.fault, options.most)[:: options.every]:
                start = time.monotonic()
                outcome, seed = run_cell(bench, cell, options.seed)
                took = round(time.monotonic() - start, 1)
                about = {"phase": cell.phase.name, "fault": cell.fault.name, "seed": seed, **outcome._asdict()}
                detail = outcome.detail.replace(f"{place}/case/", "").replace(str(place), "")
                records.append({**about, "detail": detail, "seconds": took})
                if options.verbose or outcome.result not in ("survived", "named"):
                    print(
                        f"{cell.phase.name}: {cell.fault.name} ({seed}, {took} s): {outcome.result}: {detail}",
                        flush=True,
                    )
        finally:
            bench.clear()
            host.kill()
    table = table_of(records)
    print(table)
    print(f"{time.monotonic() - began:.0f} s")
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        totals = Counter(r["result"] for r in records)
        done = sum(totals.values()) - totals["missed"] - totals["impossible"]
        about = {**origin, "injected": done, **{r: totals[r] for r in RESULTS}}
        text = ",\n".join(f"  {json.dumps(r)}" for r in records)
        (options.out / "faults.json").write_text(f'{json.dumps(about, indent=1)[:-2]},\n "cells": [\n{text}\n ]\n}}\n')
        (options.out / "faults.md").write_text(f"{table}\n")
    return 1 if any(r["result"] in ("lost", "silent") for r in records) else 0


def table_of(records: list[dict[str, Any]]) -> str:
    """A table in Markdown: phases and faults, injected cells; and the totals."""
    phases, faults = (list(dict.fromkeys(r[key] for r in records)) for key in ("phase", "fault"))
    lines = [f"| injected | {' | '.join(faults)} | all |", f"| --- |{' ---: |' * (len(faults) + 1)}"]
    done = [r for r in records if r["result"] not in ("missed", "impossible")]
    number = Counter((r["phase"], r["fault"]) for r in done)
    for phase in phases:
        row = [number[phase, fault] for fault in faults]
        lines.append(f"| {phase} | {' | '.join(str(n) if n else '' for n in row)} | {sum(row)} |")
    total = Counter(r["result"] for r in records)
    good = total["survived"] + total["named"]
    lines += [
        "",
        f"Injected {len(done)}, survived {good} (of these {total['named']} refused in one line that names the file), "
        f"lost {total['lost']}, silent {total['silent']}. Not come about: {total['missed']}. "
        f"Not possible here: {total['impossible']}. "
        f"Temporary files left behind: {sum(r['litter'] for r in records)}.",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
