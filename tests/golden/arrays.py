"""What the golden tests of several methods read from their files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from barm.batch import Batch
from barm.labels import Step

DATA = Path(__file__).parent / "data"


def named(method: str, ending: str, prefix: str) -> list[str]:
    """Names of a method's files; `ending` is a pattern of what follows the prefix."""
    found = sorted(p.stem for p in (DATA / method).glob(f"{prefix}{ending}.npz"))
    assert found
    return found


def tensors(g, *names: str) -> list[Tensor]:
    return [torch.from_numpy(g[name]) for name in names]


def batch_of(label: np.ndarray) -> Batch:
    """A batch of black images with these labels."""
    label = torch.from_numpy(label).long()
    return Batch(torch.zeros(len(label), 3, *label.shape[1:]), label, {})


def step_of(g, *, background: bool) -> Step:
    """A step with the file's numbers of classes; of the old ones, the background may be one. Step 0 without any."""
    old, new = int(g["n_old_classes"]) - background, int(g["n_new_classes"])
    groups = (tuple(range(1, old + 1)), tuple(range(old + 1, old + new + 1)))
    return Step(1, groups) if old else Step(0, groups[1:])
