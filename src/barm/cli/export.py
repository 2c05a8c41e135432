"""Commands that make a trained step usable elsewhere: export, push."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from barm.cli.common import Quiet, RunArg, StepOpt, progress, say
from barm.errors import UserError

Source = Annotated[str, typer.Argument(metavar="RUN", help="A run, a safetensors file of barm, or hf://owner/name.")]


def export(
    run: Source,
    target: Annotated[Path, typer.Option("--out", help="The file to write; a folder for some originals.")],
    kind: Annotated[
        Literal["onnx", "torch-export", "safetensors", "original"] | None,
        typer.Option(
            "--format",
            help="By default what the file's ending says: .onnx, .pt2, .safetensors. original: what the library that "
            "the network came from loads.",
        ),
    ] = None,
    step: StepOpt = None,
    int8: Annotated[
        bool,
        typer.Option(
            "--int8",
            help="ONNX with convolutions in int8: smaller and faster, and some labels differ. How many is printed.",
        ),
    ] = False,
    images: Annotated[
        Path | None,
        typer.Option(
            "--calibrate",
            metavar="DIR",
            help="For --int8: images like those it is used on, without labels. By default the run's own, if they are "
            "at hand.",
        ),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Write a step for other programs; it is checked against the run's own network before it is written.

    Example: barm export runs/demo/barm --format onnx --out barm.onnx
    """
    from barm.weights.export.formats import checked_format, export_step
    from barm.weights.export.int8 import export_int8
    from barm.weights.export.original import export_original

    if int8 and (kind or checked_format(target, kind)) != "onnx":
        raise UserError(
            f"--int8 is for onnx, found {kind or target.name}: leave it out, or give a file ending in .onnx"
        )
    if images is not None and not int8:
        raise UserError("--calibrate is for --int8: give both or neither")
    tell = progress(quiet)
    if int8:
        found = str(export_int8(run, target, images=images, step=step, progress=tell))
    elif kind == "original":
        found = str(export_original(run, target, step=step, progress=tell))
    else:
        found = str(export_step(run, target, kind, step, tell))
    files = [f for f in target.rglob("*") if f.is_file()] if target.is_dir() else [target]
    say(f"{target} ({sum(f.stat().st_size for f in files) / 1e6:.1f} MB): {found}")


def push(
    run: RunArg,
    name: Annotated[str, typer.Argument(metavar="REPO_ID", help="owner/name on the hub; made if there is none.")],
    step: StepOpt = None,
    private: Annotated[bool, typer.Option("--private", help="Only for you and those you let in.")] = False,
    token: Annotated[str | None, typer.Option(help="By default what `hf auth login` stored, or HF_TOKEN.")] = None,
    licence: Annotated[
        str | None, typer.Option("--license", help="Of the weights, such as mit; none is claimed by default.")
    ] = None,
    data_licence: Annotated[
        str | None, typer.Option("--data-license", help="Of the images that it was trained on, likewise.")
    ] = None,
    original: Annotated[
        bool, typer.Option("--original", help="Push what the library that the network came from loads.")
    ] = False,
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
        data_licence=data_licence,
        onnx=onnx,
        original=original,
        dry_run=dry_run,
        progress=progress(quiet),
    )
    load = f"extend it with `barm extend hf://{name}`" if original else f"load it with barm.load('hf://{name}')"
    say(f"{where}: {load}" if dry_run is None else where)
