"""Commands on a trained run: evaluate, predict."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from barm.cli import completion
from barm.cli.common import (
    NAMES,
    Device,
    Json,
    Precision,
    Quiet,
    RunArg,
    StepOpt,
    counting,
    names_in,
    numbers,
    out,
    print_json,
    quick_imports,
    say,
    warning,
    words,
)
from barm.errors import UserError
from barm.words import count

if TYPE_CHECKING:
    from barm.predict.images import Prediction

Sure = Annotated[
    float, typer.Option("--unsure-below", help="Masks hold 255, which training ignores, where no class is as probable.")
]
VALUES = "Masks hold the values or colours of this classes.toml, or of the one in this folder."


def evaluate(
    run: RunArg,
    step: StepOpt = None,
    data: Annotated[Path | None, typer.Option(help="Another data set with the same classes.")] = None,
    native: Annotated[bool, typer.Option("--native", help="At native size, as `barm predict` sees images.")] = False,
    override: Annotated[
        list[str] | None, typer.Option("--set", help="evaluation.key=value, e.g. evaluation.crop=0.")
    ] = None,
    details: Annotated[
        bool, typer.Option("--details", help="Scores at borders, confused classes, calibration.")
    ] = False,
    device: Device = None,
    precision: Precision = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Evaluate a step anew: mIoU of old, new and all classes, and every class.

    Example: barm evaluate runs/voc-15-1-barm --step 3
    """
    with quick_imports():
        from barm.api import evaluate as evaluate_run
        from barm.api import view_of
        from barm.report.tables import classes_table, details_lines, steps_table

    metrics = evaluate_run(
        run,
        step,
        data,
        overrides=override or (),
        native=native,
        details=details,
        device=device,
        precision=precision,
        quiet=quiet,
    )
    if as_json:
        print_json(metrics)
    else:
        out.print(classes_table(metrics))
        out.print(steps_table(str(run), {"": [metrics]}))
        same = ""
        if precision is not None:
            same = (
                f" in {metrics['computed_in']}; {_share(metrics['agreement'])} of the pixels have the label of float32"
            )
        for line in details_lines(metrics["details"]) if details else ():
            say(line)
        say(f"Measured at {view_of(run, override or (), native=native)}{same}")


def _share(value: float) -> str:
    """Percent, never rounded up to all of it."""
    return "all" if value == 1 else f"{min(100 * value, 99.999):.3f} %"


def predict(
    run: RunArg,
    images: Annotated[list[str], typer.Argument(help="Images, folders of them, or patterns in quotes.")],
    folder: Annotated[Path | None, typer.Option("--out", help="Where masks and overlays go.")] = None,
    step: StepOpt = None,
    write: Annotated[
        str, typer.Option(help="Any of mask, colour, overlay, separated by commas.", autocompletion=completion.kinds)
    ] = "mask,overlay",
    classes: Annotated[
        str | None,
        typer.Option(help=f"Only these; others: background. {NAMES}", autocompletion=completion.classes),
    ] = None,
    sizes: Annotated[
        str, typer.Option(help="The network's views: factors, or from 16 on the short side in pixels; commas.")
    ] = "1",
    sure: Sure = 0.0,
    flip: Annotated[bool, typer.Option("--flip", help="Mirror images count too.")] = False,
    ids: Annotated[bool, typer.Option("--ids", help="Masks hold the data set's ids, not channels.")] = False,
    save_as: Annotated[Path | None, typer.Option(help=VALUES)] = None,
    legend: Annotated[bool, typer.Option(help="Overlays say below what the colours mean.")] = True,
    batch: Annotated[int, typer.Option(min=1, help="Images of one size at a time.")] = 8,
    keep_going: Annotated[bool, typer.Option("--keep-going", help="Leave out files that cannot be read.")] = False,
    device: Device = None,
    precision: Precision = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write masks and overlays of images at their own size; print the classes and their shares of the area.

    Example: barm predict runs/demo/barm photos "more/*.jpg" --out seen --sizes 0.75,1,1.25 --flip
    """
    from barm.data.image_files import check_there, find_images

    if folder is None and not as_json:
        raise UserError("nothing to do: say with --out where the results go, or ask for --json")
    check_there(find_images(images, folder), (lambda _: None) if keep_going else None)
    with quick_imports():
        from barm.predict.images import PredictOptions, predict_files  # loads torch

    wanted = names_in(classes, "--classes") if classes is not None else None

    kinds = words(write) or ()
    options = PredictOptions(numbers(sizes, "--sizes"), flip, wanted, batch, kinds, ids, legend, save_as, sure)
    wrong: list[str] = []
    results = predict_files(
        run,
        images,
        folder,
        step=step,
        options=options,
        refused=wrong.append if keep_going else None,
        device=device,
        precision=precision,
        progress=counting(quiet),
        each=(lambda _: None) if as_json else _tell,
        warn=warning(quiet),
    )
    if as_json:
        print_json([result.as_json() for result in results])
    if wrong:
        total = len(wrong) + len(results)
        raise UserError(f"{len(wrong)} of {count(total, 'images')} left out, the others are done: {'; '.join(wrong)}")


def _tell(result: Prediction) -> None:
    """Print the classes of an image."""
    from barm.predict.images import percent

    shares = {**result.shares, **({"unsure": result.unsure} if result.unsure else {})}
    shown = ", ".join(f"{name} {percent(share)}" for name, share in shares.items() if name != "background")
    say(f"{next(iter(result.files.values()), result.image)}: {shown or 'background only'}")
