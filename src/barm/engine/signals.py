"""Handle Ctrl-C and SIGTERM, in the main thread, where Python delivers them."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def on_stop(note: Callable[[int], None]) -> Iterator[None]:
    """Context in which Ctrl-C and SIGTERM call `note` with the signal's number.

    Outside the main thread, as in some notebooks, nothing is changed, since Python allows handlers only there.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {s: signal.signal(s, lambda signum, _frame: note(signum)) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
