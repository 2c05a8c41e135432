"""Stages of long work: each is announced, reports every few seconds, and ends at a time limit."""

from __future__ import annotations

import _thread
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from barm.errors import UserError

BEAT = 10.0  # seconds between two signs of life


@contextmanager
def stage(progress: Callable[[str], None], title: str, limit: float, remedy: str) -> Iterator[None]:
    """Announce a stage of work and end it at a time limit. Outside Python's main thread there is no limit.

    Args:
        progress: called with the title, and every 10 seconds with the time so far.
        title: name of the work, such as "tracing the network".
        limit: seconds.
        remedy: advice for when the limit is reached.

    Raises:
        UserError: when the limit is reached.
    """
    progress(title)
    began, done, lock, late = time.monotonic(), threading.Event(), threading.Lock(), threading.Event()
    stoppable = threading.current_thread() is threading.main_thread()

    def pause() -> float:
        """Seconds until the next line, or until the limit if it is sooner."""
        return min(BEAT, max(limit - (time.monotonic() - began), 0.01)) if stoppable else BEAT

    def watch() -> None:
        while not done.wait(1.0 if late.is_set() else pause()):
            passed = time.monotonic() - began
            with lock:
                if passed >= limit and stoppable and not done.is_set():
                    late.set()
                    _thread.interrupt_main()  # again, if a callback of some library has swallowed the one before
                    continue
            progress(f"{title}: {passed:.0f} s")

    def interrupted(*_: object) -> None:
        """What an interrupt does where the process ignores it, as one that was started by ``nohup`` does."""
        if late.is_set():
            raise KeyboardInterrupt

    watcher = threading.Thread(target=watch, name="barm-stage", daemon=True)
    before = signal.getsignal(signal.SIGINT)
    ignored = stoppable and before in (signal.SIG_IGN, signal.SIG_DFL)
    if ignored:
        signal.signal(signal.SIGINT, interrupted)
    watcher.start()
    try:
        try:
            yield
        finally:
            with lock:  # from here on nobody interrupts
                done.set()
        if late.is_set():  # the interrupt is on its way
            time.sleep(1)
    except KeyboardInterrupt:
        if not late.is_set():
            raise
        raise UserError(f"{title} took longer than {limit:.0f} s: {remedy}") from None
    finally:
        if ignored:
            signal.signal(signal.SIGINT, before)
    watcher.join()
