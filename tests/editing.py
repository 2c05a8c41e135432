"""Edit a run's files by hand: what somebody does who knows of their checksums."""

from __future__ import annotations

from pathlib import Path

from barm.engine.checkpoint.checksums import CHECKSUMS, SEAL


def edit(path: Path, old: str, new: str) -> None:
    """Replace a text in a file of a run, and take away the checksum that would not fit any more."""
    unchecked(path)
    path.write_text(path.read_text("utf-8").replace(old, new), "utf-8")


def unchecked(path: Path) -> Path:
    """A file of a run that is about to be changed on purpose, without the checksums beside it.

    A run may lack them whose ``config.toml`` has no first line: as docs/runs.md says, its files are taken as they are.
    """
    (path.parent / CHECKSUMS).unlink(missing_ok=True)
    for config in (path.parent / "config.toml", path.parent.parent / "config.toml"):
        if config.is_file() and (text := config.read_text("utf-8")).startswith(SEAL):
            config.write_text(text.partition("\n")[2], "utf-8")
    return path
