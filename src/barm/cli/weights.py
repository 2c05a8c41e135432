"""Commands on checkpoints of other programs: import, export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from barm.cli.common import RunArg, StepOpt, say
from barm.words import count


def import_(
    checkpoint: Annotated[Path, typer.Argument(help="An official .pth, or a torchvision DeepLabV3's state dict.")],
    folder: Annotated[Path, typer.Option("--out", help="The run's folder; earlier steps may be there already.")],
    form: Annotated[
        Literal["auto", "official", "torchvision"], typer.Option("--format", help="Whose file; auto looks.")
    ] = "auto",
    dataset: Annotated[Literal["voc", "ade"], typer.Option(help="Official: what it was trained on.")] = "voc",
    task: Annotated[str, typer.Option(help="Official: the task it was trained on.")] = "15-1",
    step: Annotated[int, typer.Option(min=0, help="Official: the step it was saved after.")] = 0,
    model: Annotated[str, typer.Option(help="The official model name.")] = "deeplabv3bga_resnet101",
    method: Annotated[str, typer.Option(help="barm, ssul, or finetune for a DeepLab with one classifier.")] = "barm",
    images: Annotated[
        Path | None, typer.Option("--calibrate", help="torchvision: images like those it is used on, without labels.")
    ] = None,
    class_names: Annotated[
        Path | None, typer.Option(help="torchvision: a file with the names of its classes; VOC's by default.")
    ] = None,
    override: Annotated[
        list[str] | None, typer.Option("--set", help="torchvision: table.key=value over the recipe voc/barm.")
    ] = None,
) -> None:
    """Turn a checkpoint into a step of a run, which can be evaluated, extended and exported.

    Example: barm weights import deeplabv3_resnet50_coco.pth --calibrate images --out runs/base
    """
    from barm.weights.published import import_published
    from barm.weights.torchvision import import_torchvision, is_torchvision

    if form == "official" or (form == "auto" and not is_torchvision(checkpoint)):
        import_published(checkpoint, folder, dataset=dataset, task=task, step=step, model=model, method=method)
        say(f"{folder}: step {step} of {dataset} {task} from {checkpoint}")
        return
    found = import_torchvision(checkpoint, folder, images=images, names_file=class_names, overrides=override or ())
    for line in (
        f"{folder}: torchvision's DeepLabV3 from {checkpoint}; an auxiliary classifier is left out",
        f"softmax -> a probability per class, fitted on {count(found.fitted, 'images')}, measured on "
        f"{count(found.held_out, 'others')}:",
        f"  cross-entropy beyond the softmax's own {found.excess_before:.4f} -> {found.excess_after:.4f}",
        f"  calibration error                      {found.error_before:.4f} -> {found.error_after:.4f}",
        f"  pixels that keep their class           {100 * found.agreement:.2f} %",
    ):
        say(line)


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
