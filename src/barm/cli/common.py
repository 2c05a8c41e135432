"""Shared parts of the commands: options, one-line errors, progress and printing."""

from __future__ import annotations

import errno
import gc
import io
import json
import os
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer
from rich.console import Console

from barm.cli import completion
from barm.engine.distributed import watch
from barm.errors import Failed, Stopped, UserError
from barm.escaping import markup, normal
from barm.reading import read_toml, short

out = Console(emoji=False)
SPACE, PLACE = "free some space or choose another --out", "choose another place"
UNWRITABLE = {  # what to do about an output that cannot be written
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS), SPACE),
    **dict.fromkeys((errno.EEXIST, errno.ENOTDIR, errno.EISDIR), PLACE),
}
NAMES = "Separated by commas, or a TOML array, or @FILE with one name a line."
NO_MEMORY = ("can't allocate memory", "not enough memory", "Storage size calculation overflowed")  # torch's words
LONGEST = 1000  # characters of an error
PIPE_CLOSED = 1  # as typer and rich end then

Recipe = Annotated[
    str | None,
    typer.Option(
        help="A name that `barm recipes` lists, or a TOML file; a run that goes on has its own settings.",
        autocompletion=completion.recipes,
    ),
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
MODEL = "A network of another library"
ClassNames = Annotated[
    Path | None,
    typer.Option(rich_help_panel=MODEL, help="A file with the names of its outputs in their order, one per line."),
]
Background = Annotated[
    str | None,
    typer.Option(rich_help_panel=MODEL, help="Which of them is the background, or none; by its name by default."),
]
ActivationOpt = Annotated[
    Literal["softmax", "sigmoid"] | None,
    typer.Option("--activation", rich_help_panel=MODEL, help="With which it was trained, if its files do not say."),
]
Calibrate = Annotated[
    Path | None,
    typer.Option("--calibrate", rich_help_panel=MODEL, help="Images like those it is used on, without labels."),
]
Settings = Annotated[list[str] | None, typer.Option("--set", help="table.key=value, e.g. increment.epochs=10.")]
Seed = Annotated[int | None, typer.Option(min=0, max=2**32 - 1)]
Unlabelled = Annotated[
    Path | None,
    typer.Option(help="A folder of images without masks, on which later steps are to answer as before (distillation)."),
]
Device = Annotated[Literal["auto", "cpu", "cuda"] | None, typer.Option(help="Where it runs.")]
Precision = Annotated[
    Literal["auto", "32-true", "bf16-mixed", "16-mixed"] | None, typer.Option(help="bf16 where the processor has it.")
]


def guarded(command: Callable[[], Any]) -> None:
    """Run a command and turn errors into one line and an exit status.

    Bad input, or an output that cannot be written, has status 2; a stop has 128 + signal.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names of files need not be text, and a terminal may lack letters
            stream.reconfigure(errors="backslashreplace")
    try:
        command()
        sys.stdout.flush()
    except Failed as error:  # in one process alone, while it worked
        _fail(str(error), 1)
    except UserError as error:
        _fail(str(error), 2)
    except UnicodeEncodeError as error:
        _fail(f"{error.object[:80]!a} is no text that can be written as {error.encoding}: rename the file or folder", 2)
    except Stopped as stopped:  # all processes have agreed on it
        _end(str(stopped), 128 + stopped.signum, shown=watch.is_first())
    except KeyboardInterrupt:
        _fail("stopped", 130)
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(PIPE_CLOSED)
    except OSError as error:
        if error.errno is None or error.errno not in UNWRITABLE:
            _fail(gone(error), 1)
        place = error.filename or "the output folder"
        _fail(f"cannot write {place}: {os.strerror(error.errno)}; {UNWRITABLE[error.errno]}", 2)
    except (MemoryError, RuntimeError) as error:
        if not no_memory(error):
            raise
        _fail(f"out of memory ({short(error)}): give fewer or smaller images at a time, or a smaller network", 1)


def gone(error: OSError) -> str:
    """Describe a file that was there, or should be, as the operating system does."""
    if error.errno is None:
        return short(error)
    names = " and ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
    what = f"cannot use {names or 'a file or a connection'}: {os.strerror(error.errno)}"
    return f"{what}; was it removed while barm worked?" if error.errno == errno.ENOENT else what


def no_memory(error: BaseException) -> bool:
    """Whether an error means that there was not enough memory."""
    known = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return known or any(words in str(error) for words in NO_MEMORY)


def _fail(message: str, status: int) -> NoReturn:
    """Print one line on stderr, once for an error that all processes have, and exit with a status."""
    line = one_line(message)
    _end(line, status, shown=watch.fail(line, status))


def one_line(message: str) -> str:
    """A message in one line of limited length: what a file holds may be long, or steer a terminal.

    >>> one_line("names a\\n  \\x1b[31mred"), len(one_line("a" * 10**6)) < LONGEST + 20
    ('names a \\\\x1b[31mred', True)
    """
    words = " ".join(message.split())
    if len(words) > LONGEST:
        words = f"{words[: LONGEST // 2]} [...] {words[-LONGEST // 2 :]}"  # the beginning names the file, the end mends
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in words)


def _end(message: str, status: int, *, shown: bool) -> NoReturn:
    if shown:
        print(f"barm: {one_line(message)}", file=sys.stderr)
    sys.stdout.flush()
    sys.exit(status)


@contextmanager
def quick_imports() -> Iterator[None]:
    """Context in which a command imports the engine, without looking for garbage, of which imports leave none.

    What was imported is not looked at later either. It saves a quarter of the time (benchmarks/first_words.py).
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def progress(quiet: bool) -> Callable[[str], None]:
    """A function that prints what a long command is doing, on stderr."""
    console = Console(stderr=True, quiet=quiet)
    return lambda line: console.print(line, highlight=False, markup=False, soft_wrap=True)


def warning(quiet: bool) -> Callable[[str], None]:
    """Print a likely mistake in one line, on stderr."""
    console = Console(stderr=True, quiet=quiet, emoji=False)
    return lambda line: console.print(f"[yellow]warning:[/yellow] {markup(line)}", highlight=False, soft_wrap=True)


def counting(quiet: bool) -> Any:
    """A progress display on stderr: ``with counting(quiet)(title, total) as done: done()``."""
    console = Console(stderr=True, quiet=quiet)

    @contextmanager
    def shown(title: str, total: int) -> Iterator[Callable[[], None]]:
        from barm.engine.monitor import track

        with track(console, title, total) as done:
            yield done

    return shown


def say(line: str) -> None:
    """Print a line of the result unwrapped, however narrow the terminal, and above a progress bar if one is shown."""
    screen = getattr(sys.stdout, "rich_proxied_file", None)  # rich's stand-in for stdout while it draws a bar
    if screen is not None and screen.isatty():
        print(line)
        return
    out.print(line, highlight=False, markup=False, soft_wrap=True)


def print_json(value: Any) -> None:
    """Print a result as JSON for a script."""
    print(json.dumps(value, indent=1))


def names_in(text: str, option: str) -> list[str]:
    """Class names of an option: separated by commas, as a TOML array, or ``@file`` with one name per line.

    Args:
        text: the option's value.
        option: for messages.

    Raises:
        UserError: for TOML that is no array of texts, or a file that cannot be read.

    >>> names_in("cat, dog", "--classes"), names_in('["hot dog, warm", "-x"]', "--classes")
    (['cat', 'dog'], ['hot dog, warm', '-x'])
    """
    if text.startswith("@"):
        from barm.data.text import read_lines

        return [line for line in read_lines(Path(text[1:])) if line != "#" and not line.startswith("# ")]
    if not text.lstrip().startswith("["):
        return [normal(word) for word in words(text) or ()]
    try:
        names = tomllib.loads(f"x = {text}")["x"]
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UserError(
            f"{option} is no TOML array ({error}): expected such as '[\"a, b\", \"c\"]', got '{text}'"
        ) from None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{option} expects a TOML array of names such as '[\"a, b\", \"c\"]', got '{text}'")
    return [normal(name) for name in names]


def groups_in(given: Iterable[str]) -> list[list[str]]:
    """Classes per step from all ``--group`` options; ``@file.toml`` holds those of several steps as ``groups``.

    Raises:
        UserError: as `names_in`, or for a TOML file without groups.
    """
    groups: list[list[str]] = []
    for text in given:
        if not (text.startswith("@") and text.endswith(".toml")):
            groups.append(names_in(text, "--group"))
            continue
        path = Path(text[1:])
        if not path.exists():
            raise UserError(f"no file {path}: expected a TOML file with groups")
        found = read_toml(path).get("groups")
        if not isinstance(found, list) or not all(
            isinstance(g, list) and all(isinstance(n, str) for n in g) for g in found
        ):
            raise UserError(f'{text[1:]}: expected groups = [["a", "b"], ["c"]], the classes of every step')
        groups += [[normal(name) for name in group] for group in found]
    return groups


def words(text: str | None) -> list[str] | None:
    """Split words at commas: ``"a, b"`` -> ``["a", "b"]``; None stays None."""
    return None if text is None else [word.strip() for word in text.split(",") if word.strip()]


def numbers(text: str, option: str) -> list[float]:
    """Split numbers at commas: ``"0.75,1"`` -> ``[0.75, 1.0]``.

    Raises:
        UserError: if something in it is no number.
    """
    try:
        return [float(word) for word in words(text) or ()]
    except ValueError:
        raise UserError(f"{option} expects numbers separated by commas such as 0.75,1,1.25, got '{text}'") from None
