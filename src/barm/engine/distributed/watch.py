"""Watch the processes of a run: if one dies, for whatever reason, all end with its message.

The main process listens, and each of the others holds a connection to it. Both ends send a beat in regular intervals.
A connection that closes without a farewell is a process that was killed; one that stays silent is a process that was
stopped, or a machine that is gone. A thread beside the work keeps the watch, since the main thread may wait in a
collective for a process that is no more. What one process tells the others while they wait goes the same way, and has
no limit of time: the first process may read a large data set for an hour, as long as it lives.
"""

from __future__ import annotations

import atexit
import json
import multiprocessing
import os
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, NamedTuple

from barm.engine.distributed.launcher import local_rank, rank
from barm.engine.distributed.links import Link, Share, accept, connect, end_stopped
from barm.errors import UserError
from barm.processes import place

SILENCE = "BARM_SILENCE"  # seconds without a sign of life after which a process counts as dead
DEFAULT_SILENCE = 30.0
LONGEST = 1000  # characters of a message
STOPPED = "it was stopped, or its machine or the network is gone"
KILLED = "ended without a word: it was killed (for want of memory?) or it crashed; see what it said"
LEFT = "ended before its work was done; see what it said"
USER, OTHER = "user", "other"  # kinds of failures of the main process


class Died(RuntimeError):
    """The error that another process of this run has died; the message says which."""


class Farewell(NamedTuple):
    """The last message of a process: who it is, its error or None, and how many collectives it had entered."""

    who: str
    why: str | None
    entered: int


class Watch:
    """The watch of one process over the others.

    Args:
        rank: of this process.
        world: number of processes.
        links: to all others in the main process, to the main process elsewhere.
        limit: seconds of silence after which a process counts as dead.

    Attributes:
        cause: a line about the process whose death ends this one, or None.
    """

    def __init__(self, rank: int, world: int, links: Sequence[Link], limit: float) -> None:
        self.rank, self.world, self.limit = rank, world, limit
        self.beat, self.grace = limit / 10, min(8.0, limit / 4)
        self.links = list(links)
        self.cause: str | None = None
        self.failed: str | None = None
        self.origin = False  # has something failed here, whose own message is about to be shown?
        self._status, self._said, self._over, self._deadline = 1, False, False, float("inf")
        self._entered, self._gone = 0, dict[int, Farewell]()
        self._told, self._arrived = dict[int, tuple[str, str]](), dict[int, set[int]]()
        self._changed, self._sending = threading.Condition(), threading.Lock()
        self._selector = selectors.DefaultSelector()
        for link in links:
            link.socket.settimeout(self.beat)
            self._selector.register(link.socket, selectors.EVENT_READ, link)
        self._thread = threading.Thread(target=self._keep, name="barm-watch", daemon=True)
        self._thread.start()

    def enter(self) -> int:
        """Announce that this process enters the next collective; returns its number.

        Raises:
            Died: if a process died, or has left without having begun it.
        """
        with self._changed:
            self._entered += 1
            self._accuse()
            if self.cause is not None:
                raise Died(self.cause)
            return self._entered

    def tell(self, kind: str, text: str) -> None:
        """Send a message from the main process to the others, which `hear` it: kind of failure or nothing, and text."""
        number = self.enter()
        for link in self._open():
            self._send(link, "told", number, kind, text[:LONGEST])

    def hear(self) -> tuple[str, str]:
        """Wait for the message of the main process, as long as that lives.

        Raises:
            Died: if a process died.
        """
        with self._changed:  # the main process may have told, and gone
            self._entered += 1
            number = self._entered
        self._wait(lambda: number in self._told)
        return self._told.pop(number)

    def meet(self) -> None:
        """Wait until all processes are here, as long as they live.

        Raises:
            Died: if a process died.
        """
        number = self.enter()
        if self.rank == 0:
            self._wait(lambda: len(self._arrived.get(number, ())) == self.world - 1)
            self._arrived.pop(number)
            for link in self._open():
                self._send(link, "told", number, "", "")
        else:
            for link in self._open():
                self._send(link, "at", number)
            self._wait(lambda: number in self._told)
            self._told.pop(number)

    def fail(self, message: str, status: int) -> bool:
        """Announce that this process ends with an error, and make sure that it ends within seconds.

        Returns:
            Whether to print the message: not if the main process failed by itself, most likely with the same error.
        """
        with self._changed:
            again, self.failed = self.failed is not None, message
        if again:
            return True
        self._status, self._deadline = status, time.monotonic() + 2 * self.grace
        self._bid_farewell(f"failed: {message[:LONGEST]}")
        if self.rank == 0:
            return True
        with self._changed:
            self._changed.wait_for(lambda: 0 in self._gone, min(5.0, self.grace))
            return 0 not in self._gone or self._gone[0].why in (None, KILLED)

    def explain(self, error: BaseException) -> str | None:
        """The line about the process whose death caused this error, or None if the cause is here.

        A collective fails where a process is gone, perhaps a moment before its connection here closes.
        """
        if not isinstance(error, RuntimeError) or self.origin:
            return None
        with self._changed:
            self._changed.wait_for(lambda: self.cause is not None, min(2.0, self.grace))
            self._said = self._said or self.cause is not None
            return self.cause

    def leave(self) -> None:
        """Say farewell, so that the others go on alone."""
        if self.failed is None and self.cause is None:
            self._over = True
            self._bid_farewell(None)
        for link in self._open():
            with suppress(OSError):
                link.socket.shutdown(socket.SHUT_WR)  # closing at once could lose what is on its way
        with self._changed:
            self._changed.wait_for(lambda: not self.links, 1.0)

    def forget(self) -> None:
        """Close a forked child's copies of the sockets, which must not outlive this process."""
        self._selector.close()
        for link in self.links:
            link.socket.close()

    def _bid_farewell(self, why: str | None) -> None:
        for link in self._open():
            self._send(link, "left", self.rank, self._who(self.rank), why, self._entered)

    def _open(self) -> list[Link]:
        with self._changed:
            return list(self.links)

    def _who(self, rank: int) -> str:
        links = {link.rank: link for link in self.links}
        where, pid = (links[rank].place, links[rank].pid) if rank in links else (place(), os.getpid())
        return f"process {rank} of {self.world} ({where.split()[0]}, pid {pid})"

    def _stopped(self) -> str:
        return f"has not answered for {self.limit:g} s: {STOPPED}"

    def _wait(self, until: Callable[[], bool]) -> None:
        with self._changed:
            while not until():
                if self.cause is not None:
                    raise Died(self.cause)
                self._changed.wait(1.0)  # in parts, so that Ctrl-C gets through

    def _send(self, link: Link, *message: Any) -> None:
        with self._sending, suppress(OSError):  # a broken connection shows where it is read
            link.socket.sendall(json.dumps(message).encode() + b"\n")

    def _keep(self) -> None:
        """Run the thread: send beats, read messages, detect silence, and end this process if another one died."""
        last = beaten = time.monotonic()
        while self.links or self._deadline < float("inf"):
            ready = self._selector.select(min(self.beat, max(0.0, self._deadline - last)))
            now = time.monotonic()
            passed, last = min(now - last, 2 * self.beat), now  # what this process slept through is no one's silence
            for link in self._open():
                link.silent += passed
            for key, _ in ready:
                self._receive(key.data)
            if now - beaten >= self.beat:
                beaten = now
                for link in self._open():
                    self._send(link, "beat")
            for link in self._open():
                if link.silent > self.limit:
                    self._lose(link, self._stopped())
                    end_stopped(link)
            with self._changed:
                self._accuse()
            if now >= self._deadline:
                self._end()

    def _receive(self, link: Link) -> None:
        try:
            content = link.socket.recv(1 << 16)
        except OSError:
            content = b""
        if not content:
            if link.rank not in self._gone and not self._over:
                # who was silent for long has been ended by another process, which noticed first
                self._lose(link, self._stopped() if link.silent > self.limit / 2 else KILLED)
            self._close(link)
            return
        link.silent = 0.0
        *lines, link.received = (link.received + content).split(b"\n")
        for line in lines:
            self._take(link, json.loads(line))

    def _take(self, link: Link, message: list[Any]) -> None:
        with self._changed:
            match message:
                case ["told", number, kind, text]:
                    self._told[number] = (kind, text)
                case ["at", number]:
                    self._arrived.setdefault(number, set()).add(link.rank)
                case ["left", rank, who, why, entered]:
                    self._note(rank, Farewell(who, why, entered))
            self._changed.notify_all()

    def _lose(self, link: Link, why: str) -> None:
        with self._changed:
            self._note(link.rank, Farewell(self._who(link.rank), why, -1))
        self._close(link)

    def _note(self, rank: int, farewell: Farewell) -> None:
        """Record the last message of a process, and forward it to the others."""
        self._gone.setdefault(rank, farewell)
        for link in self.links if self.rank == 0 else ():
            if link.rank != rank:
                self._send(link, "left", rank, *farewell)
        self._changed.notify_all()

    def _close(self, link: Link) -> None:
        with self._changed:
            if link in self.links:
                self.links.remove(link)
                self._selector.unregister(link.socket)
                link.socket.close()
            self._changed.notify_all()

    def _accuse(self) -> None:
        """Record the death of a process that this one needs as the cause to end."""
        for left in self._gone.values() if self.cause is None and not self._over and not self.origin else ():
            if left.why is not None or left.entered < self._entered:
                self.cause = f"{left.who} {left.why or LEFT}"
                self._deadline = min(self._deadline, time.monotonic() + self.grace)
                self._changed.notify_all()
                return

    def _end(self) -> None:
        """End this process, whatever its main thread is waiting for."""
        if self.cause is not None and not self._said and self.failed is None:
            os.write(2, _line(self.cause).encode())
        for child in multiprocessing.active_children():
            child.kill()
        os._exit(self._status)


_current: Watch | None = None


def start(rank: int, world: int, *, one_machine: bool, share: Share) -> Watch:
    """Start to watch, once per process; a second call returns the watch of the first.

    Args:
        rank: of this process.
        world: number of processes, at least two.
        one_machine: whether all are on this machine.
        share: returns in every process what the main process passes.

    Raises:
        UserError: if the processes cannot connect, or ``$BARM_SILENCE`` is no number of seconds.
    """
    global _current
    if _current is None:
        limit = silence()
        links = accept(world, one_machine, share) if rank == 0 else [connect(rank, one_machine, share)]
        _current = Watch(rank, world, links, limit)
        atexit.register(leave)
        before, sys.excepthook = sys.excepthook, lambda *error: _explain_or_show(before, *error)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=_forget)
    return _current


def silence() -> float:
    """Seconds without a sign of life after which a process counts as dead.

    Raises:
        UserError: if ``$BARM_SILENCE`` is no number above 0.
    """
    text = os.environ.get(SILENCE) or str(DEFAULT_SILENCE)
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise UserError(f"{SILENCE} is a number of seconds above 0, got '{text}': leave it out for {DEFAULT_SILENCE:g}")
    return seconds


def is_first() -> bool:
    """Whether this is the process that prints."""
    return (rank() if _current is None else _current.rank) == 0


def fail(message: str, status: int) -> bool:
    """Announce an error with which this process ends; returns whether this process prints it.

    Before the processes are connected, the first one of every machine prints it.
    """
    return local_rank() == 0 if _current is None else _current.fail(message, status)


def _explain_or_show(
    show: Callable[..., Any],
    kind: type[BaseException],
    error: BaseException,
    trace: TracebackType | None,
) -> None:
    """Handle an uncaught exception: one line if another process's death caused it, else Python's traceback."""
    if _current is not None and _current.failed is None:
        line = _current.explain(error) or (str(error) if isinstance(error, Died) else None)
        if line is not None:
            sys.stderr.write(_line(line))
            return
        _current.fail(f"{kind.__name__}: {' '.join(str(error).split())}", 1)
    show(kind, error, trace)


def _line(text: str) -> str:
    return f"barm: {' '.join(text.split())}\n"


def leave() -> None:
    """Say farewell to the other processes. Called at Python's exit, and explicitly where a process ends otherwise."""
    if _current is not None:
        _current.leave()


def _forget() -> None:
    global _current
    if _current is not None:
        _current.forget()
        _current = None
