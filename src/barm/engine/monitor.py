"""Progress and logs of a training run: progress bar, log.csv, TensorBoard, Weights & Biases."""

from __future__ import annotations

import csv
import io
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn

from barm.engine import tracking
from barm.engine.memory_use import MEGABYTE
from barm.escaping import markup
from barm.reading import Unfit, open_regular
from barm.words import count, duration, verb
from barm.writing import write_atomically

COLUMNS = ("step", "epoch", "iteration", "name", "value")
LOG, RATE, PEAK = "log.csv", "images_per_second", "memory_mb"
FIRST_LINE, LONGEST = 10.0, 300.0  # seconds to the first line where the output is no terminal, and between later ones


class LogRow(NamedTuple):
    """A line of ``log.csv``: the value of `name` at an iteration of a step."""

    step: int
    epoch: int
    iteration: int
    name: str
    value: float


def read_log(directory: Path) -> list[LogRow]:
    """Read the log of a run; empty if there is none. Lines that are cut short or hold no numbers are left out."""
    return [row for line in _log_lines(directory / LOG) if (row := _parsed(line)) is not None]


def _parsed(line: Sequence[str]) -> LogRow | None:
    """A line of the log; None for the header, and for one that is cut short or holds no numbers."""
    with suppress(ValueError):
        step, epoch, iteration, name, value = line
        return LogRow(int(step), int(epoch), int(iteration), name, float(value))
    return None


def unread_log(directory: Path) -> str:
    """Describe what `read_log` leaves out of a run's log; empty if it reads all of it, or there is none.

    The last line of a run that was killed may be cut short: that is none.
    """
    path = directory / LOG
    try:
        with open_regular(path) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - 1, 0))
            whole = file.read() == b"\n"
    except FileNotFoundError:
        return ""
    except Unfit as error:
        return f"{LOG} {error.what}"
    lines = [line for line in _log_lines(path) if tuple(line) != COLUMNS]
    unread = len(lines) - len(read_log(directory)) - (not whole)
    if not lines:
        return "" if size else f"{LOG} is empty"
    return f"{unread} of the {count(len(lines), 'lines')} of {LOG} cannot be read" if unread > 0 else ""


def _log_lines(path: Path) -> Iterator[list[str]]:
    """Cells of a log's lines; a line that cannot be read as CSV is left out."""
    if not path.is_file():
        return
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        reader = csv.reader(line.replace("\0", "") for line in file)
        while True:
            try:
                yield next(reader)
            except csv.Error:  # a cell longer than the module takes
                continue
            except StopIteration:
                return


class Pace:
    """Timing of progress lines in a log file for work in equal parts, and an estimate of the time left.

    The first line comes within `FIRST_LINE` seconds of the first part, the gaps then double up to `LONGEST`.

    Args:
        start: parts that were done before.
        total: of parts.
    """

    def __init__(self, start: int, total: int) -> None:
        self.start, self.total = start, total
        self.began = self.last = time.monotonic()
        self.first: tuple[float, int] | None = None
        self.due, self.gap = 0.0, FIRST_LINE

    def is_due(self, done: int) -> bool:
        """Whether to write a line now that this many parts are done; early rather than late if parts take long."""
        now = time.monotonic()
        if self.first is None:
            self.first, self.due = (now, done), now + FIRST_LINE
        due = now + (now - self.last) > self.due  # the next part may be as long as this one
        self.last = now
        if due:
            self.gap = min(2 * self.gap, LONGEST)
            self.due = now + self.gap
        return due

    def left(self, done: int) -> str:
        """The time left in words. The first part takes longer than others and counts only while it is the only one."""
        now, (when, first) = time.monotonic(), self.first or (self.began, self.start)
        spent, parts = (now - when, done - first) if done > first else (now - self.began, done - self.start)
        return f"about {duration((self.total - done) * spent / max(parts, 1))} left"


class Monitor:
    """Show and log one run; silent in all but the main process.

    Args:
        main: whether this is the main process.
        quiet: show nothing (files are written all the same).
        tensorboard: write event files.
        console: for the output; stderr by default.
    """

    def __init__(self, main: bool, *, quiet: bool = False, tensorboard: bool = True, console: Console | None = None):
        self.main, self.tensorboard = main, tensorboard
        self.console = console or Console(stderr=True, quiet=quiet or not main, emoji=False)
        self.live = is_live(self.console)
        self.log: Any = None
        self.writer: Any = None
        self.record: Any = None
        self.bar: Progress | None = None
        self._note = ""

    def __enter__(self) -> Monitor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop_bar()
        if self.writer is not None:
            self.writer.close()
        if self.record is not None:
            tracking.end_record(self.record, failed=kind is not None)
        if self.log is not None:
            self.log.close()

    def say(self, text: str) -> None:
        """Print one line in rich's markup; names in it must be escaped (`barm.escaping.markup`)."""
        self.console.print(text, highlight=False, soft_wrap=True)

    def open(self, directory: Path, memory: Callable[[], int | None] = lambda: None) -> None:
        """Begin to write into a run's folder; `memory` returns the step's peak of memory in bytes.

        The configuration that is stored there says whether Weights & Biases gets the scalars too.

        Raises:
            UserError: if it cannot.
        """
        self.path, self.memory = directory / LOG, memory
        tracked = tracking.wanted(directory)
        if self.main and tracked is not None and self.record is None:
            self.record = tracking.start_record(directory, tracked)
            if shown := tracking.address(self.record):
                self.say(f"logged at {markup(shown)}")
        if self.main and self.tensorboard:
            from torch.utils.tensorboard import SummaryWriter  # slow to import

            self.writer = SummaryWriter(str(directory / "tensorboard"))

    def start_step(self, title: str, step: int, start: int, total: int, per_epoch: int, images: int) -> None:
        """Begin a step's training at iteration `start` of `total`; `images` is the number per iteration."""
        self.step, self.title, self.per_epoch, self.images, self.total = step, title, per_epoch, images, total
        self.began, self.start, self._note = time.monotonic(), start, ""
        self.pace = Pace(start, total)
        if not self.main:
            return
        if unread := _truncate_log(self.path, step, start):
            self.say(f"{count(unread, 'lines')} of {LOG} cannot be read and {verb(unread, 'are')} left out of it now")
        self.log = self.path.open("a", buffering=1, newline="", encoding="utf-8")
        if self.live:
            self.bar = Progress(*_columns(), console=self.console, transient=True)
            self.bar.start()
            self.task = self.bar.add_task(title, total=total, completed=start, note="")

    def progress(self, iteration: int, values: dict[str, float] | None, lr: float) -> None:
        """Report an update; most updates bring no values."""
        if not self.main:
            return
        due = self.bar is None and self.pace.is_due(iteration)
        if values is None:
            if self.bar is not None:
                self.bar.update(self.task, completed=iteration)
            elif due:
                self._tell(iteration)
            return
        epoch = (iteration - 1) // self.per_epoch
        rate = (iteration - self.start) * self.images / max(time.monotonic() - self.began, 1e-9)
        row = {**values, "lr": lr, RATE: rate}
        if (peak := self.memory()) is not None:
            row[PEAK] = peak / MEGABYTE
        rows = csv.writer(self.log)
        rows.writerows((self.step, epoch, iteration, name, f"{value:.6g}") for name, value in row.items())
        self._scalars(f"step{self.step:02d}", row, iteration)
        terms = " ".join(f"{k} {v:.3f}" for k, v in values.items())
        self._note = f"epoch {epoch + 1} · {terms} · {rate:.1f} img/s"
        if self.bar is not None:
            self.bar.update(self.task, completed=iteration, note=self._note)
        elif due or iteration == self.total:
            self._tell(iteration)

    def _tell(self, iteration: int) -> None:
        """Print a line for a log file: progress of the step, last values, time left."""
        rest = [] if iteration == self.total else [self.pace.left(iteration)]
        self.say(" · ".join(filter(None, [f"{self.title}: {iteration}/{self.total}", self._note, *rest])))

    def end_step(self) -> None:
        """End a step's training."""
        self._stop_bar()
        if self.log is not None:
            self.log.close()
            self.log = None

    @contextmanager
    def evaluation(self, step: int, total: int) -> Iterator[Callable[[], None]]:
        """Show the evaluation of a step; returns the function to call after each of `total` batches."""
        with track(self.console, f"step {step}: evaluation", total) as advance:
            yield advance

    @contextmanager
    def gathering(self, step: int, total: int) -> Iterator[Callable[[], None]]:
        """Show the pass over a step's images after the training; returns the function to call after each batch."""
        with track(self.console, f"step {step}: statistics", total) as advance:
            yield advance

    def metrics(self, step: int, means: dict[str, float]) -> None:
        """Report the scores of a step."""
        self._scalars("miou", means, step)

    def _scalars(self, group: str, values: Mapping[str, float], number: int) -> None:
        """Write scalars for TensorBoard and for Weights & Biases."""
        if self.writer is not None:
            for name, value in values.items():
                self.writer.add_scalar(f"{group}/{name}", value, number)
        if self.record is not None:
            tracking.add_values(self.record, {f"{group}/{name}": value for name, value in values.items()}, number)

    def _stop_bar(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None


def is_live(console: Console) -> bool:
    """Whether a bar can be drawn, that is, whether the output is a terminal.

    Colours may be forced elsewhere, a bar never is.
    """
    watched = console.file.isatty() and console.is_terminal and not console.is_dumb_terminal
    return watched and not console.quiet


@contextmanager
def track(console: Console, title: str, total: int) -> Iterator[Callable[[], None]]:
    """Show how many of `total` things are done; returns the function to call after each.

    On a terminal as a bar, elsewhere as plain lines: the first soon, later ones less often.
    """
    if is_live(console):
        with Progress(*_columns(), console=console, transient=True) as bar:
            task = bar.add_task(title, total=total, note="")
            yield lambda: bar.advance(task)
        return
    pace, done = Pace(0, total), 0

    def advance() -> None:
        nonlocal done
        done += 1
        if pace.is_due(done) and done < total:
            text = f"{title}: {done}/{total} · {pace.left(done)}"
            console.print(text, highlight=False, markup=False, soft_wrap=True)

    yield advance


def _columns() -> tuple[ProgressColumn, ...]:
    return (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )


def _truncate_log(path: Path, step: int, start: int) -> int:
    """Drop the rows that a resumed step will write again, and those that cannot be read; write a new file's header.

    Returns the number of those that cannot be read. The last line of a run that was killed may be cut short: that is
    none.
    """
    lines = [line for line in _log_lines(path) if tuple(line) != COLUMNS]
    rows = [_parsed(line) for line in lines]
    content = io.StringIO(newline="")
    kept = [line for line, row in zip(lines, rows, strict=True) if row and (row.step, row.iteration) <= (step, start)]
    csv.writer(content).writerows([COLUMNS, *kept])
    write_atomically(path, content.getvalue().encode())
    return rows[:-1].count(None)
