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

Labels = Callable[[Batch], Batch]


def completed(
    config: RunConfig,
    rt: Runtime,
    method: Method[Any, Any],
    network: nn.Module,
    previous: tuple[nn.Module, Method[Any, Any]] | None,
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
        previous: the previous step's network as it was stored, and its method; None at step 0.
        images: of the step, without exemplars.
        monitor: shows the pass over the images.
    """
    if not (method.finishes or method.gathers):
        return network
    network = copy.deepcopy(network)
    if method.finishes:
        method.finish(network, None if previous is None else previous[0])
    if method.gathers:
        batch_size = config.recipe(method.step.index).batch_size
        loading, number = once_batches(config, rt, images, batch_size)
        with loading as batches, monitor.gathering(method.step.index, number) as progress:
            gather(method, network, batches, rt, progress, _labels(rt, method, previous))
    return network


def _labels(rt: Runtime, method: Method[Any, Any], previous: tuple[nn.Module, Method[Any, Any]] | None) -> Labels:
    """A function that lets the previous network label the background of a batch, if the method asks for that."""
    threshold = method.asks_previous
    if previous is None or threshold is None:
        return lambda batch: batch
    network, before = rt.constant(previous[0]), previous[1]
    return lambda batch: batch._replace(label=before.annotate(network(batch.image), batch, threshold))


def gather(
    method: Method[Any, Any],
    network: nn.Module,
    batches: Iterable[Batch],
    rt: Runtime,
    progress: Callable[[], None] = lambda: None,
    labels: Labels = lambda batch: batch,
) -> None:
    """Add up a method's statistics over the batches of all processes; the method may change the network with them."""
    constant = rt.constant(network, exact=True)
    sums = method.start_sums(rt.device)
    for batch in batches:
        method.gather(constant(batch.image), labels(batch), sums)
        progress()
    method.gathered(network, {name: rt.all_sum(value) for name, value in sums.items()})
