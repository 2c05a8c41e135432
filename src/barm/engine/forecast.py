"""Estimate a run's updates, minutes and memory from a few real updates, whose results are discarded."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

from barm.batch import Batch
from barm.data.dataset import StepDataset
from barm.data.image_sizes import image_sizes
from barm.engine.config import RunConfig
from barm.engine.datasets import Data, train_dataset
from barm.engine.evaluate import evaluate
from barm.engine.loaders import train_batches
from barm.engine.memory_use import peak_memory
from barm.engine.prepare import Prepared
from barm.engine.runtime import Runtime
from barm.engine.trial import try_updates, updates_of, wait, without_weights
from barm.labels import IGNORE, Step
from barm.methods.base import Method


class StepForecast(NamedTuple):
    """Estimated cost of a step.

    Attributes:
        step: the step.
        images: number of training images, without exemplars.
        crop: side of the crop in pixels.
        updates: of the optimiser.
        training: seconds of them all.
        evaluation: seconds of the evaluation after it.
        memory: peak of the bytes in use during the trial; None where it cannot be measured.
    """

    step: Step
    images: int
    crop: int
    updates: int
    training: float
    evaluation: float
    memory: int | None


def forecast(ready: Prepared, rt: Runtime, say: Callable[[str], None] = lambda _: None) -> list[StepForecast]:
    """Try the first step and the last one, which has the largest network.

    Networks have random weights: nothing is fetched, nothing is written.

    Args:
        ready: as `barm.engine.prepare.prepare` returned it.
        rt: the runtime.
        say: called with the step that is tried.
    """
    config = without_weights(ready.config)
    datasets = {step.index: train_dataset(config, ready.data, step) for step in ready.steps}
    measured: dict[bool, _Cost] = {}
    for step in (s for s in ready.steps if s is ready.steps[-1] or s.index == 0):
        say(f"trying some updates of step {step.index}")
        measured[step.index > 0] = _try(config, rt, ready, step, datasets[step.index])
    return [_forecast(config, rt, ready, s, datasets[s.index], measured[s.index > 0]) for s in ready.steps]


class _Cost(NamedTuple):
    """Seconds per update, per batch of calibration and statistics, and per pixel of the evaluation; peak bytes."""

    update: float
    shown: float
    pixel: float
    memory: int | None


def _forecast(
    config: RunConfig, rt: Runtime, ready: Prepared, step: Step, dataset: StepDataset, cost: _Cost
) -> StepForecast:
    recipe = config.recipe(step.index)
    updates, epoch = updates_of(config, rt, ready, step, dataset)
    updates = updates if cost.update else 0
    pixels = sum(_pixels(config, source) for source in ready.data.measured) / rt.world
    training = updates * cost.update + epoch * cost.shown
    return StepForecast(step, len(dataset), recipe.side, updates, training, pixels * cost.pixel, cost.memory)


def _pixels(config: RunConfig, source: Any) -> float:
    """Number of pixels of an evaluation on a source."""
    crop = config.evaluation.crop
    sizes = getattr(source, "sizes", ())
    return float(len(source) * crop**2 if crop or not sizes else sum(width * height for width, height in sizes))


def _try(config: RunConfig, rt: Runtime, ready: Prepared, step: Step, dataset: StepDataset) -> _Cost:
    """Run some updates of a step, and evaluate the last batch."""
    trial = try_updates(config, rt, ready, step, dataset)
    constant, largest, shown = rt.constant(trial.network), _largest(config, rt, ready.data), trial.shown
    if trial.method.gathers:
        shown += _pass(config, rt, trial.method, trial.network, dataset)
    started = time.monotonic()
    evaluate(trial.method, constant, [largest], rt)
    wait(rt)
    seen = largest.image.shape[0] * largest.image.shape[2] * largest.image.shape[3]
    return _Cost(trial.mean, shown, (time.monotonic() - started) / seen, peak_memory(rt.device))


def _pass(config: RunConfig, rt: Runtime, method: Method[Any, Any], network: nn.Module, dataset: StepDataset) -> float:
    """Seconds per batch of the statistics after the training."""
    batch_size = config.recipe(method.step.index).batch_size
    with train_batches(config, rt, dataset, total=1, batch_size=batch_size, trains=False) as batches:
        batch = next(batches)
    if method.finishes:
        method.finish(network, None)
    constant, sums = rt.constant(network, exact=True), method.start_sums(rt.device)
    started = time.monotonic()
    method.gather(constant(batch.image), batch, sums)
    wait(rt)
    return time.monotonic() - started


def _largest(config: RunConfig, rt: Runtime, data: Data) -> Batch:
    """A batch of the evaluation's largest size, without labels."""
    crop, most = config.evaluation.crop, config.evaluation.batch_size
    sizes = Counter((crop, crop) if crop else size for source in data.measured for size in image_sizes(source))
    (width, height), number = max(sizes.items(), key=lambda item: min(item[1], most) * item[0][0] * item[0][1])
    number = min(number, most)
    image = torch.zeros(number, 3, height, width, dtype=torch.uint8, device=rt.device)
    return Batch(image, torch.full((number, height, width), IGNORE, device=rt.device), {})
