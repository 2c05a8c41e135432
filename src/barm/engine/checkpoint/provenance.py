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


CODE = ("barm", "torch", "torchvision", "timm", "pillow", "numpy", "lightning", "git")


def other_code(there: Mapping[str, Any], here: Mapping[str, Any]) -> str | None:
    """Describe the first difference in code that decides a result; None if there is none.

    Args:
        there: a run's record; where it was resumed, the last line of that counts.
        here: the record of the code that would go on.

    >>> other_code({"barm": "0.1.0", "git": "unknown"}, {"barm": "0.2.0", "git": "a1b2"})
    'barm 0.1.0 there, 0.2.0 here'
    """
    lines = there.get("resumed") or [""]
    last = dict(part.partition(" ")[::2] for part in str(lines[-1]).split(", "))
    for name in CODE:
        theirs, ours = last.get(name, there.get(name)), here.get(name)
        if theirs != ours and theirs is not None and "unknown" not in (theirs, ours):
            return f"{name} {theirs} there, {ours} here"
    return None


def _git_state() -> str:
    """Commit of the code, with ``+`` if files of the package were changed; ``unknown`` outside a checkout.

    A repository of the user's own, in which the package is installed but not kept, does not count.
    """
    package = Path(__file__).parents[2]

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=package, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "__init__.py")
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".")
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
