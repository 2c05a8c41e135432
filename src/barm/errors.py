"""The exceptions that are shown to users as a single line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Bad input: the message says what was expected, what was found and how to mend it.

    The command line prints it as one line and exits with status 2; a Python caller sees a `ValueError`.
    """


class Failed(UserError):
    """Work that failed after a good start: a file is gone, or a process was killed.

    The message says what it was and how to go on; the command line prints it as one line and exits with status 1.
    """


class Stopped(Exception):
    """A run was asked to stop (Ctrl-C, SIGTERM) and has saved its state.

    Args:
        message: where it stopped and how to go on.
        signum: the signal's number; the exit status is ``128 + signum``.
    """

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.signum = signum


def nearest(word: str, words: Iterable[str]) -> str:
    """A hint ``; did you mean 'x'?`` for a mistyped `word`, or nothing.

    >>> nearest("epohcs", ["epochs", "batch_size"])
    "; did you mean 'epochs'?"
    """
    found = difflib.get_close_matches(word, list(words), n=1, cutoff=0.6)
    return f"; did you mean '{found[0]}'?" if found else ""
