"""Commands that make a trained step usable elsewhere: export, push."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from barm.cli.common import Quiet, RunArg, StepOpt, progress, say

Source = Annotated[str, typer.Argument(metavar="RUN", help="A run, a safetensors file of barm, or hf://owner/name.")]


def export(
    run: Source,
    target: Annotated[Path, typer.Option("--out", help="The file to write.")],
    kind: Annotated[
        Literal["onnx", "torch-export", "safetensors"] | None,
        typer.Option("--format", help="By default what the file's ending says: .onnx, .pt2, .safetensors."),
    ] = None,
    step: StepOpt = None,
    quiet: Quiet = False,
) -> None:
    """Write a step as one file for other programs; it is checked against PyTorch before it is written.

    Example: barm export runs/demo/barm --format onnx --out barm.onnx
    """
    from barm.weights.export.formats import export_step

    found = export_step(run, target, kind, step, progress(quiet))
    say(f"{target} ({target.stat().st_size / 1e6:.1f} MB): {found}")


def push(
    run: RunArg,
    name: Annotated[str, typer.Argument(metavar="REPO_ID", help="owner/name on the hub; made if there is none.")],
    step: StepOpt = None,
    private: Annotated[bool, typer.Option("--private", help="Only for you and those you let in.")] = False,
    token: Annotated[str | None, typer.Option(help="By default what `hf auth login` stored, or HF_TOKEN.")] = None,
    licence: Annotated[
        str | None, typer.Option("--license", help="Of the weights, such as mit; none is claimed by default.")
    ] = None,
    onnx: Annotated[bool, typer.Option("--onnx", help="Put the ONNX file beside.")] = False,
    dry_run: Annotated[Path | None, typer.Option(metavar="DIR", help="Write it here instead of pushing.")] = None,
    quiet: Quiet = False,
) -> None:
    """Put a step on the Hugging Face Hub with a model card; `hf://owner/name` then stands for it everywhere.

    Example: barm push runs/demo/barm me/shapes-barm --private
    """
    from barm.weights.push import push as push_run

    where = push_run(
        run,
        name,
        step,
        private=private,
        token=token,
        licence=licence,
        onnx=onnx,
        dry_run=dry_run,
        progress=progress(quiet),
    )
    say(f"{where}: load it with barm.load('hf://{name}')" if dry_run is None else where)
