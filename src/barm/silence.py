"""Keep the log of other libraries off the terminal for a while."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_warnings_logged() -> Iterator[None]:
    """Context in which nothing up to a warning is logged; errors are."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
