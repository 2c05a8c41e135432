"""What a method does between the last update of a step and its evaluation: finish the network, gather statistics."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

from barm.batch import Batch
from barm.data.dataset import StepDataset
from barm.engine.config import RunConfig
from barm.engine.loaders import once_batches
from barm.engine.monitor import Monitor
from barm.engine.runtime import Runtime
from barm.methods.base import Method


def completed(
    config: RunConfig,
    rt: Runtime,
    method: Method[Any, Any],
    network: nn.Module,
    previous: nn.Module | None,
    images: StepDataset,
    monitor: Monitor,
) -> nn.Module:
    """The network that is evaluated and stored; the trained one is not changed.

    A process that ends in here has changed nothing on the disk: a resumed run does it again, from the trained network.

    Args:
        config: of the run.
        rt: the runtime.
        method: at its step, trained.
        network: as the training left it, on the device.
        previous: as the previous step stored it, if the method finishes with it.
        images: of the step, without exemplars.
        monitor: shows the pass over the images.
    """
    if not (method.finishes or method.gathers):
        return network
    network = copy.deepcopy(network)
    if method.finishes:
        method.finish(network, previous)
    if method.gathers:
        batch_size = config.recipe(method.step.index).batch_size
        loading, number = once_batches(config, rt, images, batch_size)
        with loading as batches, monitor.gathering(method.step.index, number) as progress:
            gather(method, network, batches, rt, progress)
    return network


def gather(
    method: Method[Any, Any],
    network: nn.Module,
    batches: Iterable[Batch],
    rt: Runtime,
    progress: Callable[[], None] = lambda: None,
) -> None:
    """Add up a method's statistics over the batches of all processes; the method may change the network with them."""
    constant = rt.constant(network, exact=True)
    sums = method.start_sums(rt.device)
    for batch in batches:
        method.gather(constant(batch.image), batch, sums)
        progress()
    method.gathered(network, {name: rt.all_sum(value) for name, value in sums.items()})
