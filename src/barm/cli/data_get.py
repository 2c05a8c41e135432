"""The command that fetches the published data sets."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from barm.cli.common import Quiet, progress, say
from barm.errors import Stopped
from barm.escaping import command
from barm.words import count

if TYPE_CHECKING:
    from barm.data.fetch import Progress as Report
    from barm.data.get import Plan

FIRST_LINE, LONGEST = 10.0, 300.0  # seconds to the first line where the output is no terminal, and between later ones


def get(
    dataset: Annotated[Literal["voc", "ade20k"], typer.Argument(help="Which data set.")],
    root: Annotated[Path, typer.Argument(help="Its folder, new or begun.")],
    address: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=URL", help="Another URL of an archive, or a file; --dry-run has the names."),
    ] = None,
    checksum: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=HEX", help="Of an archive that is not the published one; or NAME=none."),
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the archives in ROOT/.download.")] = False,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for a host.")] = 30.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be fetched, and from where.")] = False,
    quiet: Quiet = False,
) -> None:
    """Fetch PASCAL VOC 2012 with its additional masks, or ADE20K, and unpack it; goes on where it was stopped.

    Example: barm data get voc VOC2012
    """
    from barm.data.archives import DATASETS, overridden
    from barm.data.get import get as get_all
    from barm.data.get import plan

    chosen = DATASETS[dataset]
    archives = overridden(chosen.archives, address or (), checksum or ())
    work = plan(replace(chosen, archives=archives), root)
    if dry_run:
        _describe(work)
        return
    complete = work.complete
    try:
        with _shown(quiet) as report:
            num_train, num_val = get_all(work, progress(quiet), report, keep=keep, timeout=timeout)
    except KeyboardInterrupt:
        raise Stopped("stopped; what came so far is kept, the same command goes on from there", signal.SIGINT) from None
    state = "was complete already" if complete else "is complete"
    say(f"{work.root} {state}: {num_train} training and {count(num_val, 'validation images')}")
    say(f"next: {command(['barm', 'data', 'check', work.root])}")
    say(f"then: {command(['barm', 'train', '--recipe', chosen.recipe, '--data', work.root])}")


def _describe(work: Plan) -> None:
    """Print what is left to fetch, the addresses, and the space that it takes."""
    from barm.data.archives import ALGORITHMS
    from barm.data.fetch import amount, free_space

    for archive in work.dataset.archives:
        size = amount(archive.size) if archive.size else "size not published"
        kind = ALGORITHMS[len(archive.checksum)] if archive.checksum else "no checksum published"
        say(f"{archive.name}: {archive.file} ({size}, {kind})")
        for address in archive.addresses:
            say(f"  from {address}")
        if archive not in work.archives:
            say("  is in its place")
        elif work.fetched[archive.name]:
            say(f"  {amount(work.fetched[archive.name])} of it are here already")
    if work.archives:
        say(f"{work.root} takes at most {amount(work.needed)}; {amount(free_space(work.root))} are free")


@contextmanager
def _shown(quiet: bool) -> Iterator[Report]:
    """Show bytes that are done on stderr: a bar on a terminal, elsewhere lines, later ones less often."""
    console = Console(stderr=True, quiet=quiet)
    if quiet or not os.isatty(2) or not console.is_terminal or console.is_dumb_terminal:
        yield _lines(quiet)
        return
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(TextColumn("{task.description}", markup=False), *columns, console=console) as bars:
        tasks = dict[str, TaskID]()

        def report(title: str, done: int, size: int | None) -> None:
            if title not in tasks:
                tasks[title] = bars.add_task(title, total=size)
            bars.update(tasks[title], completed=done, total=size)

        yield report


def _lines(quiet: bool) -> Report:
    from barm.data.fetch import amount

    show = progress(quiet)
    due, gap = time.monotonic() + FIRST_LINE, FIRST_LINE

    def report(title: str, done: int, size: int | None) -> None:
        nonlocal due, gap
        if time.monotonic() >= due:
            gap = min(2 * gap, LONGEST)
            due = time.monotonic() + gap
            show(f"{title}: {amount(done)}" + (f" of {amount(size)}" if size else ""))

    return report
