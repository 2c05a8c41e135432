"""Commands on a trained run: evaluate, predict."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from barm.cli.common import RunArg, StepOpt, out


def evaluate(
    run: RunArg,
    step: StepOpt = None,
    data: Annotated[Path | None, typer.Option(help="Another data set with the same classes.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Evaluate a step anew: mIoU of old, new and all classes, and every class.

    Example: barm evaluate runs/voc-15-1-barm --step 3
    """
    import json

    from barm.api import evaluate as evaluate_run
    from barm.report.tables import classes_table, steps_table

    metrics = evaluate_run(run, step, data, quiet=as_json)
    if as_json:
        print(json.dumps(metrics, indent=1))
    else:
        out.print(classes_table(metrics))
        out.print(steps_table(str(run), {"": [metrics]}))


def predict(
    run: RunArg,
    images: Annotated[list[Path], typer.Argument(help="Pictures.")],
    folder: Annotated[Path, typer.Option("--out", help="Where masks and overlays go.")],
    step: StepOpt = None,
) -> None:
    """Write a mask and an overlay for every picture.

    Example: barm predict runs/demo/barm photo.jpg --out predictions
    """
    from barm.api import check_pictures, load, read_picture
    from barm.report.figures import save_prediction

    model = load(run, step)
    check_pictures(images)
    for path in images:
        picture = read_picture(path)
        label = model.predict(picture)
        folder.mkdir(parents=True, exist_ok=True)
        save_prediction(folder / path.stem, picture, label, model.colours)
        shown = ", ".join(model.class_names[c] for c in sorted(set(label.flatten().tolist())) if c)
        out.print(f"{folder / path.stem}_mask.png: {shown or 'background only'}", highlight=False)
