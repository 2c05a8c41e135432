"""Ctrl-C and SIGTERM, in the one thread in which python takes them."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def on_stop(note: Callable[[int], None]) -> Iterator[None]:
    """Within, Ctrl-C and SIGTERM call `note` with the signal's number.

    In another than the main thread, such as a notebook's, nothing is changed: python allows it nowhere else.
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
