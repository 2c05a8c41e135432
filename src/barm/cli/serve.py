"""The command `barm serve`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from barm.cli.common import quick_imports, say


def serve(
    runs: Annotated[list[Path], typer.Argument(help="A folder that `barm train` wrote; two to compare them.")],
    host: Annotated[
        str, typer.Option(help="Address to listen on; the default is for this machine alone.")
    ] = "127.0.0.1",
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="A free one by default.")] = None,
    open_browser: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    share: Annotated[
        bool, typer.Option("--share", help="Ask gradio.live for a public address: images then leave this machine.")
    ] = False,
    data: Annotated[
        Path | None, typer.Option(help="A data set for the example images; the run's own by default.")
    ] = None,
    max_upload_mb: Annotated[float, typer.Option(min=0.001, help="Larger files are refused.")] = 20,
    max_pixels: Annotated[
        int, typer.Option(min=256, max=178_000_000, help="Images of more pixels are refused.")
    ] = 20_000_000,
    shrink_to: Annotated[
        int,
        typer.Option(min=256, help="Images of more pixels are scaled down for the network, and the page says so."),
    ] = 1_000_000,
) -> None:
    """Try a model on your own images: a page on this machine, with a slider over the steps.

    Example: barm serve runs/demo/barm runs/demo/finetune
    """
    with quick_imports():
        from barm.app.serve import Options, serve
        from barm.app.viewer import Limits

    limits = Limits(max_upload_mb, max_pixels, shrink_to)
    options = Options(host, port, share, open_browser, limits, data)
    serve(runs, options, say)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    # a visitor's image may still be in the network: an interpreter that waits for it ends late, and one that is taken
    # down under it ends with a message of C++
    os._exit(0)
