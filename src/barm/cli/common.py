"""What the commands share: options, the guard that turns errors into one line, what is shown and printed."""

from __future__ import annotations

import errno
import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer
from rich.console import Console

from barm.cli import completion
from barm.errors import Failed, Stopped, UserError
from barm.reading import short

out = Console(emoji=False)
SPACE, PLACE = "free some space or choose another --out", "choose another place"
UNWRITABLE = {  # what to do about an output that cannot be written
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS), SPACE),
    **dict.fromkeys((errno.EEXIST, errno.ENOTDIR, errno.EISDIR), PLACE),
}
NO_MEMORY = ("can't allocate memory", "not enough memory", "Storage size calculation overflowed")  # torch's words
PIPE_CLOSED = 1  # as typer and rich end then

Recipe = Annotated[
    str, typer.Option(help="A name that `barm recipes` lists, or a TOML file.", autocompletion=completion.recipes)
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Show only errors and results.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
RunArg = Annotated[Path, typer.Argument(help="A folder that `barm train` wrote.", autocompletion=completion.runs)]
RunList = Annotated[
    list[Path] | None, typer.Argument(help="Folders that `barm train` wrote.", autocompletion=completion.runs)
]
StepOpt = Annotated[
    int | None,
    typer.Option("--step", min=0, help="Which step; the last by default.", autocompletion=completion.steps),
]
Device = Annotated[Literal["auto", "cpu", "cuda"] | None, typer.Option(help="Where it runs.")]
Precision = Annotated[
    Literal["auto", "32-true", "bf16-mixed", "16-mixed"] | None, typer.Option(help="bf16 where the processor has it.")
]


def guarded(command: Callable[[], Any]) -> None:
    """Run a command: bad input or an output that cannot be written is one line and status 2; a stop is 128 + signal."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names of files need not be text, and a terminal may lack letters
            stream.reconfigure(errors="backslashreplace")
    try:
        command()
        sys.stdout.flush()
    except Failed as error:  # in one process alone, while it worked
        _fail(str(error), 1, everywhere=True)
    except UserError as error:
        _fail(str(error), 2)
    except UnicodeEncodeError as error:
        _fail(f"{error.object[:80]!a} is no text that can be written as {error.encoding}: rename the file or folder", 2)
    except Stopped as stopped:
        _fail(str(stopped), 128 + stopped.signum)
    except KeyboardInterrupt:
        _fail("stopped", 130)
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(PIPE_CLOSED)
    except OSError as error:
        if error.errno is None or error.errno not in UNWRITABLE:
            _fail(gone(error), 1, everywhere=True)
        place = error.filename or "the output folder"
        _fail(f"cannot write {place}: {os.strerror(error.errno)}; {UNWRITABLE[error.errno]}", 2)
    except (MemoryError, RuntimeError) as error:
        if not no_memory(error):
            raise
        _fail(f"out of memory ({short(error)}): give fewer or smaller pictures at a time, or a smaller network", 1)


def gone(error: OSError) -> str:
    """What the machine says about a file that was there, or should be."""
    if error.errno is None:
        return short(error)
    names = " and ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
    what = f"cannot use {names or 'a file or a connection'}: {os.strerror(error.errno)}"
    return f"{what}; was it removed while barm worked?" if error.errno == errno.ENOENT else what


def no_memory(error: BaseException) -> bool:
    """Does an error mean that memory was asked for that there is not?"""
    known = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return known or any(words in str(error) for words in NO_MEMORY)


def _fail(message: str, status: int, *, everywhere: bool = False) -> NoReturn:
    """One line on stderr, from the main process only unless it is another's alone, and the exit status."""
    if everywhere or os.environ.get("RANK", "0") == "0":
        print(f"barm: {' '.join(message.split())}", file=sys.stderr)
    sys.stdout.flush()
    sys.exit(status)


def progress(quiet: bool) -> Callable[[str], None]:
    """Tells what a long command is doing, on stderr."""
    console = Console(stderr=True, quiet=quiet)
    return lambda line: console.print(line, highlight=False, markup=False, soft_wrap=True)


def counting(quiet: bool) -> Any:
    """Shows how many of something are done, on stderr: ``with counting(quiet)(title, total) as done: done()``."""
    console = Console(stderr=True, quiet=quiet)

    @contextmanager
    def shown(title: str, total: int) -> Iterator[Callable[[], None]]:
        from barm.engine.monitor import track

        with track(console, title, total) as done:
            yield done

    return shown


def say(line: str) -> None:
    """A line of the result, as it is, however narrow the terminal; above a bar where one is on the same screen."""
    screen = getattr(sys.stdout, "rich_proxied_file", None)  # rich's stand-in for stdout while it draws a bar
    if screen is not None and screen.isatty():
        print(line)
        return
    out.print(line, highlight=False, markup=False, soft_wrap=True)


def print_json(value: Any) -> None:
    """A result for a script."""
    print(json.dumps(value, indent=1))


def words(text: str | None) -> list[str] | None:
    """``"a, b"`` -> ``["a", "b"]``; None stays."""
    return None if text is None else [word.strip() for word in text.split(",") if word.strip()]


def numbers(text: str, option: str) -> list[float]:
    """``"0.75,1"`` -> ``[0.75, 1.0]``.

    Raises:
        UserError: if something in it is no number.
    """
    try:
        return [float(word) for word in words(text) or ()]
    except ValueError:
        raise UserError(f"{option} expects numbers separated by commas such as 0.75,1,1.25, got '{text}'") from None
