"""Provenance of a run: versions, machine, commit, device."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning_fabric

from barm import __version__
from barm.engine.distributed.launcher import launch
from barm.engine.runtime import Runtime

WHOLE = ("classes", "chosen", "launch")  # what is no part of a line


def provenance(
    rt: Runtime, class_names: Sequence[str] = (), chosen: Mapping[str, str] | None = None, saliency: str = ""
) -> Mapping[str, Any]:
    """Versions, machine, code state and resolved runtime; of a run also its data's classes and what the data decided.

    Args:
        rt: the runtime.
        class_names: of the data, background first.
        chosen: reasons for settings that the data decided, by key.
        saliency: origin of the saliency maps; empty where the method uses none.
    """
    classes = {"classes": list(class_names)} if class_names else {}
    decided = {"chosen": dict(chosen)} if chosen else {}
    maps = {"saliency_maps": saliency} if saliency else {}
    return {
        "barm": __version__,
        **{name: version(name) for name in ("torch", "torchvision", "timm", "pillow", "numpy")},
        "lightning": lightning_fabric.__version__,  # two distributions install it
        "python": platform.python_version(),
        "platform": platform.platform(),
        "git": _git_state(),
        "device": str(rt.device),
        "precision": str(rt.precision),
        "processes": rt.world,
        **maps,
        **classes,
        **decided,
        **({"launch": launch()} if launch() else {}),
    }


def continued(first: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """The provenance of a resumed run: as at first, and a line in ``resumed`` for the current state."""
    line = ", ".join(f"{k} {v}" for k, v in now.items() if k not in WHOLE)
    lines = list(first.get("resumed", []))
    classes = {"classes": now["classes"]} if "classes" in now else {}
    started = {"launch": now["launch"]} if "launch" in now else {}
    return {**classes, **first, **started, "resumed": lines if lines[-1:] == [line] else [*lines, line]}


CODE = ("barm", "torch", "torchvision", "timm", "pillow", "numpy", "lightning", "git", "processes")


def other_code(there: Mapping[str, Any], here: Mapping[str, Any]) -> str | None:
    """Describe the first difference between the code of two records that decides a result; None if there is none.

    >>> other_code({"barm": "0.1.0", "git": "unknown"}, {"barm": "0.2.0", "git": "a1b2"})
    'barm 0.1.0 there, 0.2.0 here'
    """
    for name in CODE:
        theirs, ours = there.get(name), here.get(name)
        if theirs != ours and theirs is not None and "unknown" not in (theirs, ours):
            return f"{name} {theirs} there, {ours} here"
    return None


def _git_state() -> str:
    """Commit of the code, with ``+`` if files were changed; ``unknown`` outside a checkout."""
    here = Path(__file__).parent
    try:
        commit = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=12"],
            cwd=here,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit.stdout.strip()
