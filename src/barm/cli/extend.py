"""`barm extend`: teach a finished network a new class."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from barm.cli import completion
from barm.cli.common import (
    NAMES,
    ActivationOpt,
    Background,
    Calibrate,
    ClassNames,
    Device,
    Json,
    Precision,
    Quiet,
    Seed,
    Settings,
    Unlabelled,
    names_in,
    out,
    print_json,
    quick_imports,
    say,
)
from barm.engine.distributed.watch import is_first

RunOrModel = Annotated[
    str,
    typer.Argument(
        metavar="RUN|MODEL",
        help="A finished run; or a network of another library: a folder of segmentation_models_pytorch or transformers "
        "(SegFormer, UperNet), a state dict of torchvision, or hf://owner/name.",
        autocompletion=completion.runs,
    ),
]
Val = Annotated[
    list[Path] | None,
    typer.Option(help="A data set that labels old classes, to measure what is forgotten; may be repeated."),
]


def extend(
    run: RunOrModel,
    data: Annotated[Path, typer.Option(help="Images and masks in which the new classes are labelled.")],
    classes: Annotated[
        str | None, typer.Option(help=f"Their names; all that the run does not know by default. {NAMES}")
    ] = None,
    folder: Annotated[Path | None, typer.Option("--out", help="The new run's folder; RUN+CLASSES by default.")] = None,
    val: Val = None,
    unlabelled: Unlabelled = None,
    step: Annotated[int | None, typer.Option(min=0, help="Extend this step; the last by default.")] = None,
    recipe: Annotated[
        str | None, typer.Option(help="Take method and optimisation from this recipe, not from the run.")
    ] = None,
    override: Settings = None,
    seed: Seed = None,
    device: Device = None,
    precision: Precision = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where the extension in --out stopped.")] = False,
    class_names: ClassNames = None,
    background: Background = None,
    activation: ActivationOpt = None,
    images: Calibrate = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Teach a finished run, or somebody else's network, new classes with images in which only those are labelled.

    Example: barm extend runs/demo/barm --data own --classes lamp --out runs/with-lamp
    """
    from barm.extension.early import ModelOptions, check_early

    options = ModelOptions(class_names, background, activation, images)
    names = names_in(classes, "--classes") if classes else ()
    known: dict[str, Any] = {"model": options, "out": folder, "val": val or (), "step": step, "recipe": recipe}
    known |= {"overrides": override or (), "resume": resume}
    check_early(run, data, names, **known)  # before torch is loaded, which takes seconds

    with quick_imports():
        from barm.extension.run import extend as extend_run
        from barm.report.extension import extension_lines, extension_table

    result = extend_run(
        run,
        data,
        names,
        **known,
        seed=seed,
        device=device,
        precision=precision,
        unlabelled=unlabelled,
        quiet=quiet or as_json,
    )
    if not is_first():
        return
    if as_json:
        print_json(result)
    else:
        out.print(extension_table(result))
        for line in extension_lines(result):
            out.print(line, highlight=False, markup=False, soft_wrap=True)
        say(f"Look at {result['run']}/extension.png")
