"""The command that makes saliency maps."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from barm.catalogue import LayoutName
from barm.cli.common import numbers, say
from barm.errors import UserError
from barm.words import count, natural

if TYPE_CHECKING:
    from barm.data.saliency.tool import Threshold

Channels = Literal["rgb", "bgr"]
Activation = Literal["none", "sigmoid", "softmax"]


def _network(text: str, *names: str) -> Any:
    """An option that describes a network."""
    return typer.Option(*names, help=text, rich_help_panel="A network of your own")


def saliency(
    root: Annotated[Path, typer.Argument(help="The data set's folder.")],
    layout: Annotated[LayoutName, typer.Option()] = "auto",
    split: Annotated[Literal["train", "val", "all"], typer.Option(help="Training uses the maps of train.")] = "train",
    threshold: Annotated[
        str | None, typer.Option(help="Salient from here on, 0 to 1, or otsu: by default 0.5, without a network otsu.")
    ] = None,
    grey: Annotated[bool, typer.Option("--grey", help="Keep the grey levels of salient pixels.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Make maps anew that are there.")] = False,
    model: Annotated[Path | None, _network("Its file, .onnx or .pt2 (torch.export), which can run code.")] = None,
    input_size: Annotated[str | None, _network("<width>x<height>, N or native. By default its own, or 320.")] = None,
    mean: Annotated[str | None, _network("By default ImageNet's, 0.485,0.456,0.406.")] = None,
    std: Annotated[str | None, _network("By default ImageNet's, 0.229,0.224,0.225.")] = None,
    scale: Annotated[Literal["255", "1"] | None, _network("Divides pixel values of 0 to 255. By default 255.")] = None,
    channels: Annotated[Channels | None, _network("Also the order of --mean, --std. By default rgb.")] = None,
    output: Annotated[str | None, _network("Of several, by name or position. By default the first.")] = None,
    activation: Annotated[Activation | None, _network("On the output. By default none.")] = None,
    stretch: Annotated[bool, _network("Scale each map to 0 to 1, as U2-Net's script does.", "--stretch")] = False,
) -> None:
    """Make the saliency maps that SSUL uses, with a network of your own or with OpenCV.

    Example: barm data saliency VOC2012 --model u2net.onnx
    """
    from barm.data.saliency.make import make_saliency
    from barm.data.saliency.network import SaliencySettings

    options: dict[str, Any] = {
        "size": None if input_size is None else _size(input_size),
        "mean": None if mean is None else _three(mean, "--mean"),
        "std": None if std is None else _three(std, "--std"),
        "scale": None if scale is None else int(scale),
        "channels": channels,
        "output": output,
        "activation": activation,
        "stretch": stretch or None,
    }
    chosen = {name: value for name, value in options.items() if value is not None}
    if model is None and chosen:
        option = f"--{next(iter(chosen)).replace('size', 'input-size')}"
        raise UserError(f"{option} describes a network: give its file with --model, too")
    settings = None if model is None else SaliencySettings(**chosen)
    level = None if threshold is None else _threshold(threshold)
    reports = make_saliency(
        root, model, settings, threshold=level, grey=grey, layout=layout, split=split, overwrite=overwrite
    )
    for report in reports:
        there = f", {report.kept} kept" if report.kept else ""
        say(f"{report.folder}: {count(report.made, 'saliency maps')} made{there}; {report.line}")


def _threshold(text: str) -> Threshold:
    """A number above 0 and at most 1, or ``otsu``.

    >>> _threshold("0.5"), _threshold("otsu")
    (0.5, 'otsu')
    """
    if text == "otsu":
        return "otsu"
    values = numbers(text, "--threshold")
    if len(values) != 1 or not 0 < values[0] <= 1:
        raise UserError(f"--threshold expects a number above 0 and at most 1, or otsu, got '{text}'")
    return values[0]


def _size(text: str) -> tuple[int, int] | Literal["native"]:
    """Width and height, one number for both, or ``native``.

    >>> _size("320"), _size("480x320"), _size("native")
    ((320, 320), (480, 320), 'native')
    """
    if text == "native":
        return "native"
    width, by, height = text.partition("x")
    sides = (natural(width), natural(height if by else width))
    if not sides[0] or not sides[1]:
        raise UserError(f"--input-size expects <width>x<height> such as 320x320, one number, or native, got '{text}'")
    return sides[0], sides[1]


def _three(text: str, option: str) -> tuple[float, float, float]:
    """Three numbers, one per channel.

    >>> _three("0.485,0.456,0.406", "--mean")
    (0.485, 0.456, 0.406)
    """
    values = numbers(text, option)
    if len(values) != 3 or not all(map(math.isfinite, values)) or (option == "--std" and 0 in values):
        such = "three numbers other than 0" if option == "--std" else "three numbers"
        raise UserError(f"{option} expects {such} such as 0.229,0.224,0.225, one per channel, got '{text}'")
    return values[0], values[1], values[2]
