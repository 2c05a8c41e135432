"""Count the confusions of a network over a data set, on the device and over all processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from barm.batch import Batch
from barm.data.base import Source
from barm.engine.config import RunConfig
from barm.engine.datasets import Data, eval_dataset
from barm.engine.loaders import ordered_batches
from barm.engine.monitor import Monitor
from barm.engine.runtime import Runtime
from barm.labels import Step
from barm.methods.base import Method
from barm.metrics import certain, confusion_counts
from barm.models.frozen import Constant


def evaluate(
    method: Method[Any, Any],
    network: Constant,
    batches: Iterable[Batch],
    rt: Runtime,
    progress: Callable[[], None] = lambda: None,
) -> Tensor:
    """Count confusions over the batches of all processes.

    Args:
        method: turns the network's output into predictions.
        network: as a constant.
        batches: this process's share; labels in channels, 255 is left out.
        rt: the runtime.
        progress: called after every batch.

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


def evaluate_step(
    config: RunConfig, rt: Runtime, method: Method[Any, Any], model: nn.Module, data: Data, step: Step, monitor: Monitor
) -> Tensor:
    """Confusion counts of a step's network on all validation images, ``(C, C)`` int64.

    Where a data set labels only some of the classes, `certain` says which pixels count.
    """
    parts = [(source, count_source(config, rt, method, model, source, data, monitor)) for source in data.measured]
    return torch.stack([certain(counts, data.known(source, step)) for source, counts in parts]).sum(0)


def count_source(
    config: RunConfig,
    rt: Runtime,
    method: Method[Any, Any],
    model: nn.Module,
    source: Source,
    data: Data,
    monitor: Monitor,
) -> Tensor:
    """Confusion counts of a step's network on one data set, ``(C, C)`` int64; every labelled pixel counts."""
    with measured(config, rt, method, source, data, monitor) as (batches, progress):
        return evaluate(method, rt.constant(model), batches, rt, progress)


def label_agreement(
    config: RunConfig, rt: Runtime, method: Method[Any, Any], model: nn.Module, data: Data, monitor: Monitor
) -> float:
    """Share of the measured images' pixels whose label is the same in the runtime's type as in float32."""
    exact, lower = rt.constant(model, exact=True), rt.constant(model)
    same = torch.zeros(2, dtype=torch.int64, device=rt.device)
    for source in data.measured:
        with measured(config, rt, method, source, data, monitor) as (batches, progress):
            for batch in batches:
                with _without_tf32():
                    one = method.predict(exact(batch.image), batch.size)
                other = method.predict(lower(batch.image), batch.size)
                same += torch.stack([(one == other).sum(), torch.full_like(same[0], one.numel())])
                progress()
    equal, pixels = rt.all_sum(same).tolist()
    return float(equal / max(pixels, 1))


@contextmanager
def _without_tf32() -> Iterator[None]:
    """Context in which a GPU computes float32 as float32."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


@contextmanager
def measured(
    config: RunConfig, rt: Runtime, method: Method[Any, Any], source: Source, data: Data, monitor: Monitor
) -> Iterator[tuple[Iterable[Batch], Callable[[], None]]]:
    """This process's batches of a data set that is measured, and what to call after each."""
    policy = replace(method.policy, unseen=0) if config.evaluation.unseen == "background" else method.policy
    dataset = eval_dataset(config, data, source, method.step, policy)
    loading, number = ordered_batches(config, rt, dataset)
    one_shape = rt.one_shape(config.evaluation.crop > 0)
    with one_shape, loading as batches, monitor.evaluation(method.step.index, number) as progress:
        yield batches, progress
