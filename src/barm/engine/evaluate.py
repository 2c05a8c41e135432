"""Confusion counts of a network over a data set, on the device, shared by all processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from barm.batch import Batch
from barm.engine.runtime import Runtime
from barm.methods import Method
from barm.metrics.functional import confusion_counts


def evaluate(
    method: Method[Any],
    model: nn.Module,
    batches: Iterable[Batch],
    rt: Runtime,
    progress: Callable[[], None] = lambda: None,
) -> Tensor:
    """Confusion counts of all processes together.

    Args:
        method: says how predictions are read off.
        model: unwrapped, on the device; put into evaluation mode.
        batches: this process's share; labels in channels, 255 is left out.
        rt: the runtime.
        progress: is called after every batch.

    Returns:
        ``(C, C)`` int64 on the CPU, row = truth.
    """
    model.eval()
    num_classes = method.step.num_seen
    counts = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=rt.device)
    for batch in batches:
        out = rt.infer(model, batch.image)
        prediction = method.predict(out, (batch.label.shape[1], batch.label.shape[2]))
        counts += confusion_counts(prediction, batch.label, num_classes)
        progress()
    return rt.all_sum(counts).cpu()
