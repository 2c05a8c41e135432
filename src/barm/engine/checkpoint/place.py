"""Whether a run can be written into a folder. Nothing here needs torch."""

from __future__ import annotations

import os
from pathlib import Path

from barm.errors import UserError, nearest

CONFIG, LOCK = "config.toml", ".lock"  # of a run's folder


def check_place(path: Path, *, resume: bool) -> tuple[bool, bool]:
    """Check whether a run can be written or resumed here. Nothing is changed.

    Returns:
        Whether the folder exists, and whether anything is in it.

    Raises:
        UserError: if the folder has contents and `resume` is off, is none, or there is no run to resume.
    """
    present = path.exists()
    if present and not path.is_dir():
        raise UserError(f"{path} is a file: expected a folder for the run; choose another --out (out=...)")
    existing = present and any(not _passing(p.name) for p in path.iterdir())
    if existing and not resume:
        raise UserError(
            f"{path} exists already: choose another --out, or go on with it with --resume (resume=True in Python)"
        )
    config = path / CONFIG
    if existing and not config.is_file():
        if os.path.lexists(config):
            raise UserError(f"{config} is no file: expected the settings of a run; restore it, or choose another --out")
        raise UserError(f"{path} is not a run: expected {CONFIG} in it; choose another --out (out=...)")
    if not present and resume:
        raise UserError(f"nothing to resume: {path} does not exist; leave --resume (resume=True) out to start")
    return present, existing


def _passing(name: str) -> bool:
    """Whether a process that was killed leaves a file of this name before there is a run; the probe is filelock's."""
    return name in (LOCK, f"{CONFIG}.tmp") or name.startswith(".filelock-probe-")


def instead(path: Path) -> str:
    """Describe a folder that holds no run, and the runs in it or beside it that may be meant."""
    if not path.exists():
        beside = (p.parent.name for p in path.parent.glob(f"*/{CONFIG}"))
        return f"there is no such folder{nearest(path.name, beside)}"
    inside = sorted(str(p.parent) for p in path.glob(f"*/{CONFIG}"))
    return f"expected {CONFIG} in it" + (f"; did you mean {' or '.join(inside[:3])}?" if inside else "")
