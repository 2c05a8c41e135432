"""The progress bar of work on many files."""

from __future__ import annotations

from rich.console import Console
from rich.progress import Progress

BAR_FROM = 500  # files from which a bar is shown


def progress_bar(number: int) -> Progress:
    """A bar on a terminal's standard error for work on `number` files; nothing is shown elsewhere, or for a few."""
    console = Console(stderr=True)
    show = console.is_terminal and number >= BAR_FROM
    console.quiet = not show  # a bar that is not shown ends with an empty line before rich 14.3
    return Progress(console=console, transient=True, disable=not show)
