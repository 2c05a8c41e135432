"""The command line: parses, calls, prints. The commands stand in the modules beside; here is what they are called."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import typer

from barm.cli import bench, data, listing, report, results, training, weights
from barm.cli.common import guarded

__all__ = ["app", "guarded", "main"]

PANELS: dict[str, tuple[Callable[..., Any], ...]] = {  # in the order of --help
    "Train": (training.demo, training.train),
    "Look": (report.report, results.evaluate, results.predict, training.compare),
    "Look up": (listing.recipes, listing.methods),
    "Measure": (bench.bench,),
}
GROUPS: dict[str, tuple[str, dict[str, Callable[..., Any]]]] = {
    "data": ("Make or check a data set.", {"make": data.make, "check": data.check}),
    "weights": ("Official checkpoints, both ways.", {"import": weights.import_, "export": weights.export}),
}

app = typer.Typer(
    name="barm",
    help="Teach a segmentation model new classes without the old images.",
    epilog="New here? `barm demo` shows the whole story in about three minutes.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for panel, commands in PANELS.items():
    for command in commands:
        app.command(rich_help_panel=panel)(command)
for name, (about, members) in GROUPS.items():
    group = typer.Typer(help=about, no_args_is_help=True)
    for member, command in members.items():
        group.command(member)(command)
    app.add_typer(group, name=name, rich_help_panel="Data and weights")


def main() -> None:
    """Entry point of ``barm``."""
    guarded(lambda: app(standalone_mode=True))
