"""Commands on checkpoints of other programs: show, import, export."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from barm.cli.common import (
    MODEL,
    ActivationOpt,
    Background,
    Calibrate,
    ClassNames,
    Json,
    RunArg,
    Settings,
    StepOpt,
    print_json,
    say,
)
from barm.errors import UserError
from barm.words import count

SHOWN = 10  # values of a list on one line


def import_(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            help="A checkpoint of another program, or hf://owner/name; `barm weights show` says what it is."
        ),
    ],
    folder: Annotated[Path, typer.Option("--out", help="The run's folder; earlier steps may be there already.")],
    form: Annotated[
        Literal["auto", "official", "torchvision"], typer.Option("--format", help="Whose file; auto looks.")
    ] = "auto",
    dataset: Annotated[
        Literal["voc", "ade"] | None,
        typer.Option(help="Official: what it was trained on, where the file leaves it open."),
    ] = None,
    task: Annotated[str | None, typer.Option(help="Official: the task it was trained on, likewise.")] = None,
    step: Annotated[int | None, typer.Option(min=0, help="Official: the step it was saved after, likewise.")] = None,
    model: Annotated[str | None, typer.Option(help="The official model name, likewise.")] = None,
    method: Annotated[
        str | None, typer.Option(help="barm, ssul, or finetune for a DeepLab with one classifier, likewise.")
    ] = None,
    images: Calibrate = None,
    class_names: ClassNames = None,
    background: Background = None,
    activation: ActivationOpt = None,
    recipe: Annotated[
        str | None,
        typer.Option(rich_help_panel=MODEL, help="Of the method that is to extend it; folder/barm by default."),
    ] = None,
    override: Settings = None,
) -> None:
    """Turn a checkpoint into a step of a run, which can be evaluated, extended and exported.

    Example: barm weights import deeplabv3_resnet50_coco.pth --calibrate images --out runs/base
    """
    from barm.weights.hub import is_address
    from barm.weights.recognise import recognise

    given: dict[str, Any] = {
        "class_names": class_names,
        "background": background,
        "activation": activation,
        "images": images,
    }
    given |= {"recipe": recipe or "folder/barm", "overrides": override or ()}
    if is_address(checkpoint):
        return _import_model(checkpoint, folder, **given)
    kind = recognise(checkpoint)
    whose = "torchvision" if kind.family == "torchvision" else "official"
    if form not in ("auto", whose):
        raise UserError(f"--format {form} does not fit: {kind.line(checkpoint)}")
    if kind.use == "adopt" or (kind.family == "torchvision" and recipe is not None):
        return _import_model(checkpoint, folder, **given)
    if kind.use != "import":
        raise UserError(kind.line(checkpoint))
    if whose == "official":
        told = {"dataset": dataset, "task": task, "step": step, "model": model, "method": method}
        return _import_official(checkpoint, folder, **told)
    _import_torchvision(checkpoint, folder, images, class_names, override or ())


def _import_official(checkpoint: Path, folder: Path, **told: Any) -> None:
    """Import an official checkpoint, and print which step of which task it is."""
    from barm.weights.published import import_published

    found = import_published(checkpoint, folder, **told)
    others = f" ({' or '.join(found.others)} would fit too: --task)" if found.others else ""
    say(f"{folder}: step {found.step} of {found.dataset} {found.task}{others} from {checkpoint}")


def _import_model(checkpoint: Path, folder: Path, **given: Any) -> None:
    """Import a network of another library, and print what it is."""
    from barm.weights.importing import import_lines, import_model

    for line in import_lines(import_model(checkpoint, folder, **given)):
        say(line)


def _import_torchvision(
    checkpoint: Path, folder: Path, images: Path | None, class_names: Path | None, overrides: Sequence[str]
) -> None:
    """Import torchvision's DeepLabV3, and print how near its new scores are to the softmax."""
    from barm.weights.torchvision import import_torchvision

    found = import_torchvision(checkpoint, folder, images=images, names_file=class_names, overrides=overrides)
    for line in (
        f"{folder}: torchvision's DeepLabV3 from {checkpoint}; an auxiliary classifier is left out",
        f"softmax -> a probability per class, fitted on {count(found.fitted, 'images')}, measured on "
        f"{count(found.held_out, 'others')}:",
        f"  cross-entropy beyond the softmax's own {found.excess_before:.4f} -> {found.excess_after:.4f}",
        f"  calibration error                      {found.error_before:.4f} -> {found.error_after:.4f}",
        f"  pixels that keep their class           {100 * found.agreement:.2f} %",
    ):
        say(line)


def show(
    path: Annotated[Path, typer.Argument(help="A file or folder of weights, whoever wrote it.")],
    as_json: Json = False,
) -> None:
    """Say what a file or folder of weights is, and what barm can do with it.

    Example: barm weights show model.pth
    """
    from barm.weights.recognise import recognise

    kind = recognise(path)
    if as_json:
        print_json({"path": str(path), **asdict(kind)})
        return
    say(f"{path} is {kind.name}")
    facts = (
        ("network", kind.architecture),
        ("outputs", kind.outputs),
        ("classes per step", few(kind.groups)),
        ("step", kind.step),
        ("barm", kind.advice),
    )
    for name, value in facts:
        if value not in (None, ""):
            say(f"  {name:<16}  {value}")


def few(values: Sequence[object]) -> str:
    """The first values of a list, and how many there are if it is long; ``--json`` gives all.

    >>> few((15, 1)), few(range(12))
    ('15, 1', '0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ... (12 in all)')
    """
    shown = ", ".join(map(str, values[:SHOWN]))
    return shown if len(values) <= SHOWN else f"{shown}, ... ({len(values)} in all)"


def export(
    run: RunArg,
    target: Annotated[Path, typer.Argument(help="The .pth to write.")],
    step: StepOpt = None,
) -> None:
    """Write a step in the official format.

    Example: barm weights export runs/voc model.pth --step 0
    """
    from barm.weights.published import export_checkpoint

    export_checkpoint(run, target, step=step)
    say(str(target))
