"""One cell of the campaign: a phase, a fault, a seed. What became of it is judged here."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from injector import Injector, asked
from phases import Phase, Words

from barm.engine import completion, evaluate, run, selection
from barm.engine.monitor import Monitor
from forked import Forked, command

RATES = ("images_per_second", "memory_mb")  # no two runs share them
LIMIT = 120  # seconds for a command
PASSING = re.compile(
    r"(^|/)(\.step\d+\.(partial|tmp)|\.download|\.lock|cache)(/|$)|\.tmp(/|$)|\.part(\.json)?$|(^|/)\.filelock-probe|(^|/)(log\.csv|checksums\.json)$"
)
STORED = re.compile(r"(^|/)(\.step\d\d\.tmp|step\d\d)(/|$)")  # paths of events while a step is stored
LITTER = re.compile(r"\.tmp(/|$)|(^|/)\.filelock-probe")
NOTE = ("the index is not cached",)
ARCHIVES = ("voc.tar", "masks.zip")
NOBODY = 65534
State = dict[str, Any]


class Impossible(Exception):
    """This user of this machine cannot bring a fault about."""


class Outcome(NamedTuple):
    """What became of a cell.

    Attributes:
        result: ``survived``, ``named``, ``lost``, ``silent``, ``missed`` where the fault did not come about, or
            ``impossible`` where it cannot be brought about here.
        detail: what was seen.
        litter: temporary files that are left after the command was given again.
    """

    result: str
    detail: str = ""
    litter: int = 0


class Base(NamedTuple):
    """An undisturbed command: what it must lead to.

    Attributes:
        old: files before.
        new: files afterwards.
        events: changes of files, and ticks, in the phase's window.
        stored: numbers of the events while a step is stored, from 1.
        seconds: that it took.
        out: what it printed.
        read: what the commands print that read the result.
        largest: bytes of the largest file that it wrote.
        grown: bytes that it added.
    """

    old: State
    new: State
    events: int
    stored: tuple[int, ...]
    seconds: float
    out: str
    read: tuple[str, ...]
    largest: int
    grown: int


class Bench:
    """The place where cells are run, one after the other.

    Args:
        place: a folder for all.
        host: address of the archives.
    """

    def __init__(self, place: Path, host: str) -> None:
        self.place, self.host, self.material, self.folder = place, host, place / "material", place / "case"
        self.bases: dict[str, Base] = {}

    def words(self, phase: Phase, more: Sequence[str] = ()) -> Words:
        """The command of a phase."""
        return self._filled((*phase.words, *more))

    def again(self, phase: Phase) -> Words:
        """The command of a phase as somebody gives it once more."""
        return self._filled(phase.again(self.folder))

    def _filled(self, words: Words) -> Words:
        sums = {name: hashlib.sha256((self.material / name).read_bytes()).hexdigest() for name in ARCHIVES}
        return tuple(word.format(host=self.host, **{n.partition(".")[0]: s for n, s in sums.items()}) for word in words)

    def lay(self, phase: Phase) -> None:
        """Begin a cell anew."""
        self.clear()
        phase.lay(self.material, self.folder)

    def clear(self) -> None:
        """Remove the last cell."""
        if os.path.ismount(self.folder):
            subprocess.run(["umount", "--lazy", self.folder], check=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self, phase: Phase, words: Words, injector: Injector | None = None, before: Callable[[], object] = int):
        """Start a command; with an injector its events are counted and something happens at one."""
        return Forked(partial(self._go, phase, words, injector, before), self.env(phase), self.folder)

    def env(self, phase: Phase) -> dict[str, str]:
        """Variables: only the phase of the index has a cache of its own."""
        return {"BARM_CACHE": str(self.folder / "cache" if phase.name == "index" else self.place / "cache")}

    def _go(self, phase: Phase, words: Words, injector: Injector | None, before: Callable[[], object]) -> None:
        if injector is not None:
            _ticking(injector, phase.window)
            injector.install()
        before()
        try:
            command(*words)()
        except Exception:  # shown as Python does it, where one process of several ends by the death of another
            sys.excepthook(*sys.exc_info())
            sys.exit(1)
        finally:
            if injector is not None:
                (self.place / "events").write_text("\n".join(injector.events))

    def ended(self, phase: Phase, words: Words, more: Words = ()) -> tuple[int | None, str, str]:
        """Run a command to its end: exit status, output, errors without notes."""
        process = self.start(phase, (*self._filled(words), *more))
        with suppress(subprocess.TimeoutExpired):
            process.communicate(LIMIT)
        return process.returncode, process.out, said(process.err)

    def base(self, phase: Phase) -> Base:
        """The undisturbed command; also stores what it leaves, for the cells that damage that."""
        if phase.name in self.bases:
            return self.bases[phase.name]
        self.lay(phase)
        old, size = state(self.folder), used(self.folder)
        injector = Injector(self.folder, armed=not phase.window)
        began = time.monotonic()
        process = self.start(phase, self.words(phase), injector)
        process.communicate(LIMIT)
        seconds = time.monotonic() - began
        assert process.returncode == 0, (phase.name, process.err)
        paths = (self.place / "events").read_text().split("\n")
        events, stored = len(paths), tuple(i for i, path in enumerate(paths, 1) if STORED.search(path))
        assert any(paths), phase.name
        new = state(self.folder)
        grown = used(self.folder) - size
        written = [p for p in self.folder.rglob("*") if p.is_file() and str(p.relative_to(self.folder)) not in old]
        largest = max((p.stat().st_size for p in written), default=1)
        shutil.copytree(self.folder, self.place / f"done {phase.name}", symlinks=True)
        read = tuple(self._read(phase, words) for words in phase.reads)
        self._stop(phase, events)
        base = Base(old, new, events, stored, seconds, process.out, read, largest, grown)
        self.bases[phase.name] = base
        return base

    def _read(self, phase: Phase, words: Words) -> str:
        status, out, err = self.ended(phase, words)
        assert status == 0, (phase.name, words, err)
        return out

    def _stop(self, phase: Phase, events: int) -> None:
        """Store what a command leaves that was asked to stop in its middle."""
        self.lay(phase)
        at = events // 2 if not phase.trains else max(1, events // 3)
        self.start(phase, self.words(phase), Injector(self.folder, at, asked, not phase.window)).communicate(LIMIT)
        shutil.copytree(self.folder, self.place / f"stopped {phase.name}", symlinks=True)

    @contextmanager
    def small_disk(self, phase: Phase, room: int):
        """The folder on a file system of its own; yields a function that gives it as much room as it needs."""
        self.clear()
        self.folder.mkdir()
        self._mount(self.folder)
        try:
            laid = self.place / "laid"
            shutil.rmtree(laid, ignore_errors=True)
            phase.lay(self.material, laid)
            shutil.copytree(laid, self.folder, dirs_exist_ok=True)
            size = used(self.folder)
            self._resize(-(-(size + room) // 4096) * 4096)
            yield partial(self._resize, 16 << 30)
        finally:
            self.clear()

    def _mount(self, folder: Path) -> None:
        mount = ["mount", "-t", "tmpfs", "-o", "size=512m", "tmpfs", str(folder)]
        try:
            subprocess.run(mount, check=True, capture_output=True, text=True)
        except (OSError, subprocess.CalledProcessError) as error:
            why = " ".join(str(getattr(error, "stderr", "") or error).split())[:120]
            raise Impossible(f"no tmpfs can be mounted here, which root can: {why}") from None

    def _resize(self, size: int) -> None:
        subprocess.run(["mount", "-o", f"remount,size={size}", str(self.folder)], check=True, capture_output=True)

    def finished(self, phase: Phase, how: str, words: Words | None = None, logs: bool = True) -> Outcome:
        """After a fault: nothing may be in a third state, and the command, given again, leads to the right result."""
        base = self.bases[phase.name]
        found = third(state(self.folder), base, phase)
        if found:
            return Outcome("lost", f"{how}; a third state: {found}")
        status, out, err = self.ended(phase, words or phase.again(self.folder))
        if status != 0 and one_line(err) and not unlike(state(self.folder), base.new, logs=logs):
            return Outcome("survived", f"{how}; all was done: {err.strip()[:80]}")
        if status != 0:
            return Outcome("lost", f"{how}; given again it ends with {status}: {err.strip()[-300:]}")
        now = state(self.folder)
        litter = sum(bool(LITTER.search(path)) for path in now)
        wrong = unlike({k: v for k, v in now.items() if not LITTER.search(k)}, base.new, logs=logs)
        if not wrong and phase.name == "index" and out != base.out:
            wrong = "its output"
        return (
            Outcome("silent", f"{how}; another result: {wrong}", litter) if wrong else Outcome("survived", how, litter)
        )


def _ticking(injector: Injector, window: str) -> None:
    """Let batches and updates be events, and arm the injector when the phase's window opens."""

    def ticking(whole: Callable[..., Any]) -> Callable[..., Any]:
        def call(*words: Any, **options: Any) -> Any:
            injector.tick()
            return whole(*words, **options)

        return call

    def arming(whole: Callable[..., Any]) -> Callable[..., Any]:
        def call(*words: Any, **options: Any) -> Any:
            injector.arm()
            return whole(*words, **options)

        return call

    Monitor.progress = ticking(Monitor.progress)  # type: ignore[method-assign]
    evaluate.confusion_counts = ticking(evaluate.confusion_counts)
    selection.channels_in = ticking(selection.channels_in)
    gathered = completion.gather
    if window == "gather":
        gathered = arming(gathered)
    completion.gather = lambda m, n, b, *rest: gathered(m, n, (injector.tick() or one for one in b), *rest)
    if window == "evaluate":
        run.evaluate_step = arming(run.evaluate_step)
    if window == "choose":
        run.choose_exemplars = arming(run.choose_exemplars)


def said(err: str) -> str:
    """Errors without notes that are no errors."""
    return "".join(line for line in err.splitlines(keepends=True) if not line.startswith(NOTE))


def used(folder: Path) -> int:
    """Bytes of a folder in blocks, as a tmpfs counts them."""
    return sum(-(-p.stat().st_size // 4096) * 4096 for p in folder.rglob("*") if p.is_file() and not p.is_symlink())


def state(folder: Path) -> State:
    """Every file below a folder with its content, without what may differ between two runs of the same command."""
    found: State = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_dir():
            continue
        try:
            found[name] = _content(path)
        except (ValueError, KeyError):  # what is no TOML or JSON any more
            found[name] = path.read_bytes()
    return found


def _content(path: Path) -> Any:
    if path.name == "config.toml":
        table = tomllib.loads(path.read_text())
        classes = table.pop("provenance", {}).get("classes")
        table.pop("runtime", None)
        return {**table, "classes": classes}
    if path.name == "log.csv":
        return [row for row in csv.reader(path.open()) if len(row) == 5 and row[3] not in RATES]
    if path.suffix == ".html":  # says when it was made
        return re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", "", path.read_text())
    if path.name == "compare.json":
        return re.sub(r'"provenance": \{.*?\}', "", path.read_text(), flags=re.S)
    if path.suffix == ".json" and path.name.startswith("index-"):
        text = path.read_text()
        return json.loads(text[text.index("{") :])
    if path.suffix in (".jpg", ".png") and "masks" not in path.parts and path.stat().st_size > 1 << 16:
        return path.stat().st_size
    return path.read_bytes()


def third(now: State, base: Base, phase: Phase) -> str:
    """Name a file that is neither as it was nor as it should become, or a folder that is there in part."""
    for name, content in now.items():
        if not PASSING.search(name) and content not in (base.old.get(name), base.new.get(name)):
            return name
    for pattern in phase.whole:
        for folder in {m[0] for name in base.new if (m := re.match(pattern + "/", name))}:
            inside = {n for n in now if n.startswith(folder) and not PASSING.search(n)}
            whole = [{n for n in s if n.startswith(folder) and not PASSING.search(n)} for s in (base.old, base.new)]
            if inside and inside not in whole:
                return f"{folder} without {min(whole[1] - inside, default='nothing')}"
    return ""


def unlike(now: State, wanted: State, leave: Sequence[str] = (), logs: bool = True) -> str:
    """Name the first file that is missing, too much or different."""
    for name in sorted(now.keys() | wanted.keys()):
        if name in leave or name.endswith(".lock") or (not logs and name.endswith("log.csv")):
            continue
        if now.get(name) != wanted.get(name):
            what = "missing" if name not in now else "too much" if name not in wanted else "different"
            return f"{name} is {what}"
    return ""


def one_line(err: str) -> bool:
    """Whether a command said what is wrong as it should."""
    return err.count("\n") == 1 and err.startswith("barm: ")
