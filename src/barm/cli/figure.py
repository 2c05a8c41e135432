"""The command `barm figure`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from barm.cli.common import Device, say


class FigureKind(StrEnum):
    """What is drawn."""

    qualitative = "qualitative"
    background = "background"


def figure(
    kind: Annotated[FigureKind, typer.Argument(help="Predictions by run and step, or BARM's background.")],
    paths: Annotated[list[Path], typer.Argument(help="Folders of runs, then images.", metavar="RUN... IMAGE...")],
    file: Annotated[Path, typer.Option("--out", help="The PNG, PDF or SVG file.")] = Path("figure.png"),
    device: Device = None,
) -> None:
    """Draw a figure for a paper: qualitative (a row per run, a column per step), or background (BARM's residuals).

    Example: barm figure qualitative runs/demo/barm runs/demo/finetune photo.jpg --out figure.png
    """
    from barm.data.images import IMAGE_SUFFIXES
    from barm.predict.paper_figures import figure as draw

    images = [p for p in paths if p.suffix.lower() in IMAGE_SUFFIXES and not p.is_dir()]
    runs = [p for p in paths if p not in images]
    say(str(draw(kind.value, runs, images, file, device=device)))
