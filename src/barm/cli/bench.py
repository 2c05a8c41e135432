"""The command that measures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from barm.cli import completion
from barm.cli.common import Device, Json, Precision, Quiet, out, progress, quick_imports, say


def bench(
    model: Annotated[str, typer.Option(help="A published model name, or a timm backbone.")] = "deeplabv3bga_resnet101",
    task: Annotated[str, typer.Option(help="<first>-<increment>.")] = "15-1",
    classes: Annotated[int, typer.Option(min=2, help="Of the data set, without background.")] = 20,
    step: Annotated[int, typer.Option("--step", min=1, help="Which step is measured.")] = 1,
    batch: Annotated[int, typer.Option(min=1)] = 2,
    crop: Annotated[int, typer.Option(min=16, help="Side of the training crop in pixels.")] = 513,
    rounds: Annotated[int, typer.Option(min=1, help="Measurements of everything, in turn.")] = 5,
    part: Annotated[
        list[str] | None,
        typer.Option(
            help="step, losses, evaluation, loader (by default), constant, launch, memory, growth, profile; repeat it.",
            autocompletion=completion.parts,
        ),
    ] = None,
    data: Annotated[Path, typer.Option(help="Images for the loader; drawn there if missing.")] = Path(
        "runs/bench-data"
    ),
    folder: Annotated[Path | None, typer.Option("--out", help="Write bench.json, and growth.png, there.")] = None,
    device: Device = None,
    precision: Precision = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure an update against the plain way and the bare network: time, memory, and the data path.

    Example: barm bench --task 100-10 --classes 150 --batch 4 --part losses
    """
    with quick_imports():
        from barm.bench.report import print_result, write_result
        from barm.bench.run import run_bench, setting_of

    setting = setting_of(model, task, classes, step, batch, crop, device or "auto", precision or "auto")
    parts = part or ["step", "losses", "evaluation", "loader"]
    result = run_bench(setting, parts, rounds, data, progress(quiet))
    written = [] if folder is None else write_result(folder, result)
    if as_json:
        print(result.to_json(), end="")
        return
    print_result(out, result)
    for path in written:
        say(str(path))
