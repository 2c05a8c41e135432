"""Provenance of a run: versions, machine, commit, device."""

from __future__ import annotations

import hashlib
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
        "source": source_digest(),
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


CODE = ("barm", "torch", "torchvision", "timm", "pillow", "numpy", "lightning", "git", "source")
CONDITIONS = ("python", "device", "precision", "processes")  # which may change, and round otherwise


def other_code(there: Mapping[str, Any], here: Mapping[str, Any]) -> str | None:
    """Describe the first difference in code that decides a result; None if there is none.

    Args:
        there: a run's record; where it was resumed, the last line of that counts.
        here: the record of the code that would go on.

    >>> other_code({"barm": "0.1.0", "git": "unknown"}, {"barm": "0.2.0", "git": "a1b2"})
    'barm 0.1.0 there, 0.2.0 here'
    """
    last = _last(there)
    for name in CODE:
        theirs, ours = last.get(name), here.get(name)
        if name == "git" and _unsure(last, here):
            continue
        if theirs != ours and theirs is not None and "unknown" not in (theirs, ours):
            return f"{name} {theirs} there, {ours} here"
    return None


def unknown_code(there: Mapping[str, Any], here: Mapping[str, Any]) -> str | None:
    """Describe why nobody can say whether the code of two records is the same; None if that can be said.

    >>> unknown_code({"git": "a1b2+"}, {"git": "a1b2+", "source": "c3d4"})
    'git a1b2+ there, a1b2+ here, each with changes that only one of them has a digest of'
    >>> unknown_code({"git": "a1b2+", "source": "c3d4"}, {"git": "a1b2+", "source": "c3d4"})
    """
    last = _last(there)
    if "git" not in last or not _unsure(last, here):
        return None
    theirs, ours = last["git"], here.get("git")
    why = ", each with changes that only one of them has a digest of" if "unknown" not in (theirs, ours) else ""
    return f"git {theirs} there, {ours} here{why}"


def other_conditions(there: Mapping[str, Any], here: Mapping[str, Any]) -> str | None:
    """Describe all differences in what a run computes with beside code; None if there is none.

    >>> here = {"device": "cuda:1", "precision": "bf16-mixed", "processes": 2}
    >>> other_conditions({"device": "cuda:0", "precision": "32-true", "processes": 1}, here)
    'precision 32-true there, bf16-mixed here; processes 1 there, 2 here'
    """
    last = _last(there)
    pairs = [(name, *(str(one.get(name)).partition(":")[0] for one in (last, here))) for name in CONDITIONS]
    found = [f"{name} {theirs} there, {ours} here" for name, theirs, ours in pairs if theirs not in ("None", ours)]
    return "; ".join(found) or None


def _last(record: Mapping[str, Any]) -> dict[str, Any]:
    """What a run worked with last: as at its first start, or by the last line of those that resumed it."""
    lines = record.get("resumed") or [""]
    if not lines[-1]:
        return dict(record)
    resumed = dict(part.partition(" ")[::2] for part in str(lines[-1]).split(", "))
    return {**{k: v for k, v in record.items() if k != "source"}, **resumed}  # an older version wrote no digest


def _unsure(there: Mapping[str, Any], here: Mapping[str, Any]) -> bool:
    """Whether two records of the code agree as far as git knows, and one has no digest."""
    if "source" in there and "source" in here:
        return False
    theirs, ours = str(there.get("git")), str(here.get("git"))
    dirty = theirs == ours and ours.endswith("+")
    return dirty or "unknown" in (theirs, ours)


def source_digest(package: Path = Path(__file__).parents[2]) -> str:
    """Digest of the package's modules, whether they are committed, changed, or installed from a wheel.

    Args:
        package: folder of the package.
    """
    whole = hashlib.sha256()
    for file in sorted(f for f in package.rglob("*.py") if f.is_file() and not f.name.startswith(".")):
        content = file.read_bytes().replace(b"\r\n", b"\n")
        whole.update(f"{file.relative_to(package).as_posix()} {len(content)}\n".encode() + content)
    return whole.hexdigest()[:12]


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
