"""The command line: parse, call, print. The commands are in the modules beside this one; here are their names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import typer

from barm.cli import (
    bench,
    compare,
    data,
    data_get,
    data_import,
    export,
    extend,
    figure,
    listing,
    report,
    results,
    saliency,
    serve,
    training,
    usage,
    weights,
)
from barm.cli.common import guarded
from barm.cli.start import start
from barm.cli.usage import Commands

PANELS: dict[str, tuple[Callable[..., Any], ...]] = {  # in the order of --help
    "Train": (training.demo, training.train, extend.extend),
    "Look": (report.report, results.evaluate, results.predict, serve.serve, compare.compare, figure.figure),
    "Take away": (export.export, export.push),
    "Look up": (listing.recipes, listing.methods),
    "Measure": (bench.bench,),
}
GROUPS: dict[str, tuple[str, dict[str, Callable[..., Any]]]] = {
    "data": (
        "Import, fetch, check, divide, resize or make a data set.\n\nExample: barm data check VOC2012",
        {
            "import": data_import.import_,
            "get": data_get.get,
            "check": data.check,
            "split": data_import.split,
            "resize": data.resize,
            "make": data.make,
            "saliency": saliency.saliency,
        },
    ),
    "weights": (
        "Checkpoints of other programs, official ones both ways.\n\nExample: barm weights export runs/voc model.pth",
        {"show": weights.show, "import": weights.import_, "export": weights.export},
    ),
}

app = typer.Typer(
    name="barm",
    cls=Commands,
    epilog="New here? `barm demo` shows all of it in about five minutes.",
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)
app.callback()(start)
for panel, commands in PANELS.items():
    for command in commands:
        app.command(rich_help_panel=panel)(command)
for name, (text, members) in GROUPS.items():
    group = typer.Typer(help=text, cls=Commands, no_args_is_help=True)
    for member, command in members.items():
        group.command(member)(command)
    app.add_typer(group, name=name, rich_help_panel="Data and weights")


def main() -> None:
    """Entry point of ``barm``."""
    guarded(lambda: usage.run(app))
