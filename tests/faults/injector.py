"""Faults inside a process of the program: it counts what the process does to files, and acts at a chosen event.

An event is a change of the file system below a folder (a file opened for writing, flushed, renamed, removed, linked; a
folder made or removed) or a tick: one batch, one update. Python tells of them by audit hooks, which cannot be evaded.
"""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

sys.path.append(str(Path(__file__).parents[1]))  # for `forked`, which the other parts import
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Change(NamedTuple):
    """A change of folders that a loss of power may undo.

    Attributes:
        kind: ``create``, ``rename``, ``remove`` or ``mkdir``.
        path: of the file or folder, as it was called afterwards.
        before: its name before a rename.
        content: what stood there before, if it was a file.
    """

    kind: str
    path: str
    before: str = ""
    content: bytes | None = None


class Injector:
    """Counts events below a folder, and calls a function at one of them.

    Args:
        root: the folder.
        at: number of the event, from 1; 0: none.
        act: called before the event takes place.
        armed: count from the beginning; else from `arm` on.
    """

    def __init__(self, root: Path, at: int = 0, act: Callable[[Injector], None] | None = None, armed: bool = True):
        self.root, self.at, self.act, self.armed = os.path.realpath(root), at, act, armed
        self.events: list[str] = []  # the path of each below the folder, empty for a tick
        self.changes: list[Change] = []  # that are not on the disk for sure
        self.dirty: dict[str, bytes | int] = {}  # files that were written: what is on the disk of them
        self.journal = False
        self._lock, self._own, self._inside = threading.RLock(), os.getpid(), threading.local()

    def install(self) -> None:
        """Listen from now on, until the process ends."""
        self._own = os.getpid()
        sys.addaudithook(self._hear)
        whole = os.fsync

        def fsync(handle: int) -> None:
            whole(handle)
            self._flushed(os.readlink(f"/proc/self/fd/{handle}"))

        os.fsync = fsync
        sync = os.sync

        def sync_all() -> None:
            sync()
            self.dirty, self.changes = {}, []

        os.sync = sync_all

    def tick(self) -> None:
        """A batch or an update."""
        if os.getpid() == self._own:
            self._event("")

    def arm(self) -> None:
        """Count from now on."""
        self.armed = True

    def _hear(self, name: str, words: tuple[Any, ...]) -> None:
        if not name.startswith(("open", "os.")) or os.getpid() != self._own or getattr(self._inside, "busy", False):
            return
        self._inside.busy = True
        try:
            self._note(name, words)
        finally:
            self._inside.busy = False

    def _note(self, name: str, words: tuple[Any, ...]) -> None:
        if name == "open":
            if isinstance(words[0], int) or not isinstance(words[2], int) or not words[2] & WRITING:
                return
            path = self._path(words[0])
            if path:
                self._event(path, lambda: self._opened(path, words[2]))
        elif name == "os.rename":
            before, after = self._path(words[0], words[2]), self._path(words[1], words[3])
            if before and after:
                self._event(after, lambda: self._renamed(before, after))
        elif name in ("os.remove", "os.rmdir", "os.mkdir", "os.link"):
            path = self._path(words[1] if name == "os.link" else words[0], words[-1])
            kind = {"os.rmdir": "remove", "os.link": "create"}.get(name, name[3:])
            if path:
                self._event(path, lambda: self._changed(kind, path))

    def _path(self, path: Any, folder: Any = -1) -> str:
        if not isinstance(path, str | bytes | os.PathLike):
            return ""
        text = os.fsdecode(path)
        base = os.readlink(f"/proc/self/fd/{folder}") if isinstance(folder, int) and folder >= 0 else os.getcwd()
        full = os.path.normpath(os.path.join(base, text))
        return full if full.startswith(self.root + os.sep) else ""

    def _event(self, path: str, note: Callable[[], None] = lambda: None) -> None:
        with self._lock:
            if self.armed:
                self.events.append(path.removeprefix(self.root + os.sep))
                if self.act is not None and len(self.events) == self.at:
                    self._inside.busy = True
                    self.act(self)
                    self._inside.busy = False
            if self.journal:
                note()

    def _opened(self, path: str, flags: int) -> None:
        file, known = Path(path), path in self.dirty
        if not file.exists():
            self.changes.append(Change("create", path))
            self.dirty[path] = b""
        elif not known:
            self.dirty[path] = file.stat().st_size if flags & os.O_APPEND else file.read_bytes()

    def _renamed(self, before: str, after: str) -> None:
        file = Path(after)
        self.changes.append(Change("rename", after, before, file.read_bytes() if file.is_file() else None))
        for path in [p for p in self.dirty if p == before or p.startswith(before + os.sep)]:
            self.dirty[after + path.removeprefix(before)] = self.dirty.pop(path)

    def _changed(self, kind: str, path: str) -> None:
        there = os.path.lexists(path)
        if there != (kind == "remove"):  # what fails, or is told of twice
            return
        content = Path(path).read_bytes() if kind == "remove" and Path(path).is_file() else None
        if kind == "remove":
            self.dirty.pop(path, None)
        self.changes.append(Change(kind, path, "", content))

    def _flushed(self, path: str) -> None:
        with self._lock:
            if not path.startswith(self.root) or os.getpid() != self._own:
                return
            if self.armed:
                self.events.append(path.removeprefix(self.root + os.sep))
                if self.act is not None and len(self.events) == self.at:
                    self.act(self)
            if os.path.isdir(path):
                self.changes = [c for c in self.changes if os.path.dirname(c.path) != path]
            else:
                self.dirty.pop(path, None)
                self.changes = [c for c in self.changes if c != Change("create", path)]


def killed(_: Injector) -> None:
    """SIGKILL: nothing can catch it."""
    os.kill(os.getpid(), signal.SIGKILL)


def asked(_: Injector) -> None:
    """SIGTERM."""
    os.kill(os.getpid(), signal.SIGTERM)


def power_cut(seed: int) -> Callable[[Injector], None]:
    """Lose what was not flushed: changes of folders from a random one on, contents in part or as a whole.

    A folder's changes are safe once the folder is flushed, a file's content once the file is. Of the other changes the
    last ones are undone, in their order, as by a file system with a journal.
    """

    def act(injector: Injector) -> None:
        draw = random.Random(seed)
        dirty, changes = dict(injector.dirty), list(injector.changes)
        kept = draw.randint(0, len(changes))
        for change in reversed(changes[kept:]):
            undo(change, dirty)
        for path, durable in dirty.items():
            file = Path(path)
            if not file.is_file():
                continue
            content = file.read_bytes()
            if isinstance(durable, int):
                file.write_bytes(content[: draw.randint(min(durable, len(content)), len(content))])
            else:
                lost = draw.choice((durable, b"", content[: len(content) // 2], bytes(len(content))))
                file.write_bytes(lost)
        killed(injector)

    return act


def undo(change: Change, dirty: dict[str, bytes | int]) -> None:
    """Undo one change of a folder."""
    path = Path(change.path)
    if change.kind == "remove":
        if change.content is not None and path.parent.is_dir() and not path.exists():
            path.write_bytes(change.content)
        elif change.content is None and path.parent.is_dir():
            path.mkdir(exist_ok=True)
        return
    if not os.path.lexists(path):
        return
    if change.kind == "rename":
        if not Path(change.before).parent.is_dir():
            return
        shutil.move(path, change.before)
        for name in [p for p in dirty if p == change.path or p.startswith(change.path + os.sep)]:
            dirty[change.before + name.removeprefix(change.path)] = dirty.pop(name)
        if change.content is not None:
            path.write_bytes(change.content)
    elif path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def torn(limit: int) -> None:
    """Die in the middle of writing a file: beyond so many bytes of one."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))


def clock_jump(seconds: float) -> Callable[[Injector], None]:
    """Set the wall clock, as a clock that is corrected does."""

    def act(_: Injector) -> None:
        whole, whole_ns = time.time, time.time_ns
        time.time = lambda: whole() + seconds
        time.time_ns = lambda: whole_ns() + int(seconds * 1e9)

    return act
