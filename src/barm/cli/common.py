"""What the commands share: options, the guard that turns errors into one line, progress."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

from barm.errors import Stopped, UserError

out = Console()
SPACE, PLACE = "free some space or choose another --out", "choose another place"
UNWRITABLE = {  # what to do about an output that cannot be written
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS), SPACE),
    **dict.fromkeys((errno.EEXIST, errno.ENOTDIR, errno.EISDIR), PLACE),
}

Recipe = Annotated[str, typer.Option(help="A name that `barm recipes` lists, or a TOML file.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Show only errors and results.")]
RunArg = Annotated[Path, typer.Argument(help="A folder that `barm train` wrote.")]
StepOpt = Annotated[int | None, typer.Option("--step", min=0, help="Which step; the last by default.")]
Device = Annotated[Literal["auto", "cpu", "cuda"] | None, typer.Option(help="Where it runs.")]
Precision = Annotated[
    Literal["auto", "32-true", "bf16-mixed", "16-mixed"] | None, typer.Option(help="bf16 where the processor has it.")
]


def guarded(command: Callable[[], Any]) -> None:
    """Run a command: bad input or an output that cannot be written is one line and status 2; a stop is 128 + signal."""
    try:
        command()
    except UserError as error:
        _fail(str(error), 2)
    except Stopped as stopped:
        _fail(str(stopped), 128 + stopped.signum)
    except KeyboardInterrupt:
        _fail("stopped", 130)
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        place = error.filename or "the output folder"
        _fail(f"cannot write {place}: {os.strerror(error.errno)}; {UNWRITABLE[error.errno]}", 2)


def _fail(message: str, status: int) -> None:
    """One line on stderr, from the main process only, and the exit status."""
    if os.environ.get("RANK", "0") == "0":
        print(f"barm: {' '.join(message.split())}", file=sys.stderr)
    sys.stdout.flush()
    sys.exit(status)


def progress(quiet: bool) -> Callable[[str], None]:
    """Tells what a long command is doing, on stderr."""
    console = Console(stderr=True, quiet=quiet)
    return lambda line: console.print(line, highlight=False, markup=False)
