"""Commands on official checkpoints: import, export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from barm.cli.common import RunArg, StepOpt, say


def import_(
    checkpoint: Annotated[Path, typer.Argument(help="An official .pth.")],
    folder: Annotated[Path, typer.Option("--out", help="The run's folder; earlier steps may be there already.")],
    dataset: Annotated[Literal["voc", "ade"], typer.Option()] = "voc",
    task: Annotated[str, typer.Option(help="The task it was trained on.")] = "15-1",
    step: Annotated[int, typer.Option(min=0, help="The step it was saved after.")] = 0,
    model: Annotated[str, typer.Option(help="The official model name.")] = "deeplabv3bga_resnet101",
    method: Annotated[str, typer.Option(help="barm, ssul, or finetune for a DeepLab with one classifier.")] = "barm",
) -> None:
    """Turn an official checkpoint into a step of a run, which can be evaluated and continued.

    Example: barm weights import deeplabv3bga_resnet101_voc_15-1_step_0_overlap.pth --task 15-1 --step 0 --out runs/voc
    """
    from barm.official.weights import import_published

    import_published(checkpoint, folder, dataset=dataset, task=task, step=step, model=model, method=method)
    say(f"{folder}: step {step} of {dataset} {task} from {checkpoint}")


def export(
    run: RunArg,
    target: Annotated[Path, typer.Argument(help="The .pth to write.")],
    step: StepOpt = None,
) -> None:
    """Write a step in the official format.

    Example: barm weights export runs/voc model.pth --step 0
    """
    from barm.official.weights import export_checkpoint

    export_checkpoint(run, target, step=step)
    say(str(target))
