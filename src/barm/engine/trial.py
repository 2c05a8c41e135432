"""Some real updates of a step with random weights, timed. Nothing is fetched or written; the result is discarded."""

from __future__ import annotations

import statistics
import time
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import nn

from barm.data.beside import BesideDataset
from barm.data.dataset import StepDataset
from barm.data.exemplars import MemoryDataset
from barm.data.sampler import iterations_per_epoch
from barm.engine.config import RunConfig
from barm.engine.datasets import train_dataset, training_images
from barm.engine.loaders import train_batches
from barm.engine.memory_use import forget_peak
from barm.engine.prepare import Prepared
from barm.engine.runtime import Runtime
from barm.engine.train import StepTrainer, calibrate, warm_start
from barm.labels import Step
from barm.methods.base import Method
from barm.models.frozen import Constant

TRIED = 4  # updates, of which the first does not count: it also starts the loaders and, compiled, the compiler
LONG = 20.0  # seconds after which no further one is tried


class Trial(NamedTuple):
    """Timed updates of a step.

    Attributes:
        method: at the step.
        network: trained by them.
        first: seconds of the first update, in which loaders and compiler start; 0 for a step without updates.
        later: seconds of every later one.
        shown: seconds of a batch of the calibration and of the warm start.
    """

    method: Method[Any, Any]
    network: nn.Module
    first: float
    later: tuple[float, ...]
    shown: float

    @property
    def mean(self) -> float:
        """Mean seconds of an update, the first left out if there are others."""
        return statistics.mean(self.later or (self.first,))

    @property
    def median(self) -> float:
        """Median seconds of an update, the first left out if there are others."""
        return statistics.median(self.later or (self.first,))


def without_weights(config: RunConfig) -> RunConfig:
    """The configuration with random weights, so that none are fetched."""
    return config.model_copy(update={"model": config.model.model_copy(update={"pretrained": False, "weights": None})})


def updates_of(config: RunConfig, rt: Runtime, ready: Prepared, step: Step, dataset: StepDataset) -> tuple[int, int]:
    """Number of updates of a step that trains, and of an epoch; its images include exemplars that are appended."""
    recipe, memory, length = config.recipe(step.index), config.method.memory, len(dataset)
    if memory is not None and memory.mix == "append":
        before = (train_dataset(config, ready.data, ready.data.plan[i]).images for i in range(step.index))
        length += min(memory.size, len(set().union(*before)))
    epoch = iterations_per_epoch(length, recipe.batch_size, rt.world)
    return recipe.length(epoch), epoch


def try_updates(
    config: RunConfig, rt: Runtime, ready: Prepared, step: Step, dataset: StepDataset, *, least: int = 1
) -> Trial:
    """Run at most `TRIED` updates of a step, at least `least` however long they take.

    Args:
        config: without weights.
        rt: the runtime.
        ready: the run.
        step: is tried; the network before it has random weights too.
        dataset: of the step.
        least: number of updates.
    """
    torch.manual_seed(config.seed)
    method, teacher = config.method.build(step, config.model), None
    model = method.build_model()
    if step.index > 0:
        previous = config.method.build(ready.data.plan[step.index - 1], config.model).build_model()
        method.init_from(model, previous)
        teacher = rt.constant(previous) if method.uses_teacher or method.warms else None
        del previous
    method.set_length(TRIED, TRIED)
    model = rt.place(model)
    forget_peak(rt.device)
    if not method.trains:
        return Trial(method, model, 0.0, (), 0.0)
    return _timed(config, rt, method, model, teacher, training_images(config, ready.data, dataset, step, ()), least)


def _timed(
    config: RunConfig,
    rt: Runtime,
    method: Method[Any, Any],
    model: nn.Module,
    teacher: Constant | None,
    dataset: StepDataset | MemoryDataset | BesideDataset,
    least: int,
) -> Trial:
    """Time the updates, and the passes before them on a single batch."""
    recipe = config.recipe(method.step.index)
    trainer = StepTrainer(method, model, teacher if method.uses_teacher else None, recipe, TRIED, rt, config.seed)
    loading = train_batches(config, rt, dataset, total=TRIED, batch_size=recipe.batch_size, trains=False)
    times, began, shown = list[float](), time.monotonic(), 0.0
    with rt.one_shape(), loading as batches:
        for batch in batches:
            if not times and teacher is not None and (method.warms or method.calibrates):
                started, first = time.monotonic(), [batch.part(slice(recipe.batch_size))]
                if method.warms:
                    warm_start(method, model, teacher, first, rt)
                if method.calibrates:
                    calibrate(method, teacher, first, rt)
                wait(rt)
                shown = time.monotonic() - started
            trainer.update(batch)
            wait(rt)
            times.append(time.monotonic())
            enough = rt.world == 1 and times[-1] - began > LONG  # all processes try as many
            if len(times) == TRIED or (enough and len(times) >= least):
                break
    trainer.release()
    later = tuple(now - before for before, now in pairwise(times))
    return Trial(method, trainer.network, times[0] - began - shown, later, shown)


def wait(rt: Runtime) -> None:
    """Wait for the device."""
    if rt.device.type == "cuda":
        torch.cuda.synchronize(rt.device)
