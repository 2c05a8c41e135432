"""The command `barm report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from barm.cli.common import Quiet, progress, quick_imports, say, warning


def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders that `barm train` wrote; the first is the reference.")],
    file: Annotated[
        Path | None, typer.Option("--out", help="The HTML file; report.html in the first run by default.")
    ] = None,
    images: Annotated[int, typer.Option("--images", "--pictures", min=0, help="Images in the gallery.")] = 6,
    data: Annotated[Path | None, typer.Option(help="The data set's folder, if it was moved.")] = None,
    details: Annotated[
        bool, typer.Option("--details", help="Measure all images: scores at borders, confused classes, calibration.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Write a page on what was learned and forgotten: one HTML file that needs no network. Several runs: side by side.

    Example: barm report runs/demo/barm runs/demo/finetune --out comparison.html
    """
    with quick_imports():
        from barm.report.build import write_report

    told = {"say": progress(quiet), "warn": warning(quiet)}
    path = write_report(runs, file, images=images, data=data, details=details, quiet=quiet, **told)
    say(f"{path} ({path.stat().st_size / 1000:.0f} kB)")
