"""Confusion counts of a network over a data set, on the device, shared by all processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from barm.batch import Batch
from barm.engine.runtime import Constant, Runtime
from barm.methods import Method
from barm.metrics import confusion_counts


def evaluate(
    method: Method[Any],
    network: Constant,
    batches: Iterable[Batch],
    rt: Runtime,
    progress: Callable[[], None] = lambda: None,
) -> Tensor:
    """Confusion counts of all processes together.

    Args:
        method: says how predictions are read off.
        network: as a constant.
        batches: this process's share; labels in channels, 255 is left out.
        rt: the runtime.
        progress: is called after every batch.

    Returns:
        ``(C, C)`` int64 on the CPU, row = truth.
    """
    num_classes = method.step.num_seen
    counts = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=rt.device)
    for batch in batches:
        prediction = method.predict(network(batch.image), batch.size)
        counts += confusion_counts(prediction, batch.label, num_classes)
        progress()
    return rt.all_sum(counts).cpu()
