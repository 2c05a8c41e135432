"""Estimate a run's updates, minutes and memory from a few real updates, whose results are discarded."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

from barm.batch import Batch
from barm.data.beside import BesideDataset
from barm.data.dataset import StepDataset
from barm.data.exemplars import MemoryDataset
from barm.data.image_sizes import image_sizes
from barm.data.sampler import iterations_per_epoch
from barm.engine.config import RunConfig
from barm.engine.datasets import Data, train_dataset, training_images
from barm.engine.evaluate import evaluate
from barm.engine.loaders import train_batches
from barm.engine.memory_use import forget_peak, peak_memory
from barm.engine.prepare import Prepared
from barm.engine.runtime import Runtime
from barm.engine.train import StepTrainer, calibrate, warm_start
from barm.labels import IGNORE, Step
from barm.methods.base import Method
from barm.models.frozen import Constant

TRIED = 4  # updates, of which the first does not count: it also starts the loaders and, compiled, the compiler
LONG = 20.0  # seconds after which no further one is tried


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
    config = _without_weights(ready.config)
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
    epoch = iterations_per_epoch(_length(config, ready, step, dataset), recipe.batch_size, rt.world)
    updates = recipe.length(epoch) if cost.update else 0
    pixels = sum(_pixels(config, source) for source in ready.data.measured) / rt.world
    training = updates * cost.update + epoch * cost.shown
    return StepForecast(step, len(dataset), recipe.side, updates, training, pixels * cost.pixel, cost.memory)


def _length(config: RunConfig, ready: Prepared, step: Step, dataset: StepDataset) -> int:
    """Images of an epoch, including exemplars that are appended."""
    memory = config.method.memory
    if memory is None or memory.mix != "append":
        return len(dataset)
    before = (train_dataset(config, ready.data, ready.data.plan[i]).images for i in range(step.index))
    return len(dataset) + min(memory.size, len(set().union(*before)))


def _pixels(config: RunConfig, source: Any) -> float:
    """Number of pixels of an evaluation on a source."""
    crop = config.evaluation.crop
    sizes = getattr(source, "sizes", ())
    return float(len(source) * crop**2 if crop or not sizes else sum(width * height for width, height in sizes))


def _without_weights(config: RunConfig) -> RunConfig:
    return config.model_copy(update={"model": config.model.model_copy(update={"pretrained": False, "weights": None})})


def _try(config: RunConfig, rt: Runtime, ready: Prepared, step: Step, dataset: StepDataset) -> _Cost:
    """Run some updates of a step, and evaluate the last batch."""
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
    images = training_images(config, ready.data, dataset, step, ())
    per_update, shown, network = _updates(config, rt, method, model, teacher, images)
    constant, largest = rt.constant(network), _largest(config, rt, ready.data)
    if method.gathers:
        shown += _pass(config, rt, method, network, dataset)
    started = time.monotonic()
    evaluate(method, constant, [largest], rt)
    _wait(rt)
    seen = largest.image.shape[0] * largest.image.shape[2] * largest.image.shape[3]
    return _Cost(per_update, shown, (time.monotonic() - started) / seen, peak_memory(rt.device))


def _updates(
    config: RunConfig,
    rt: Runtime,
    method: Method[Any, Any],
    model: nn.Module,
    teacher: Constant | None,
    dataset: StepDataset | MemoryDataset | BesideDataset,
) -> tuple[float, float, nn.Module]:
    """Seconds per update and per batch of a calibration, and the trained network; 0 for a step without updates."""
    if not method.trains:
        return 0.0, 0.0, model
    recipe = config.recipe(method.step.index)
    trainer = StepTrainer(method, model, teacher if method.uses_teacher else None, recipe, TRIED, rt, config.seed)
    loading = train_batches(config, rt, dataset, total=TRIED, batch_size=recipe.batch_size, trains=False)
    times, began, shown = list[float](), time.monotonic(), 0.0
    with rt.one_shape(), loading as batches:
        for batch in batches:
            if not times and method.warms and teacher is not None:
                started = time.monotonic()
                warm_start(method, model, teacher, [batch.part(slice(recipe.batch_size))], rt)
                _wait(rt)
                shown += time.monotonic() - started
            if not times and teacher is not None and method.calibrates:
                started = time.monotonic()
                calibrate(method, teacher, [batch.part(slice(recipe.batch_size))], rt)
                _wait(rt)
                shown += time.monotonic() - started
            trainer.update(batch)
            _wait(rt)
            times.append(time.monotonic())
            if len(times) == TRIED or (rt.world == 1 and times[-1] - began > LONG):  # all processes try as many
                break
    per_update = (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else times[0] - began
    return per_update, shown, trainer.network


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
    _wait(rt)
    return time.monotonic() - started


def _largest(config: RunConfig, rt: Runtime, data: Data) -> Batch:
    """A batch of the evaluation's largest size, without labels."""
    crop, most = config.evaluation.crop, config.evaluation.batch_size
    sizes = Counter((crop, crop) if crop else size for source in data.measured for size in image_sizes(source))
    (width, height), number = max(sizes.items(), key=lambda item: min(item[1], most) * item[0][0] * item[0][1])
    number = min(number, most)
    image = torch.zeros(number, 3, height, width, dtype=torch.uint8, device=rt.device)
    return Batch(image, torch.full((number, height, width), IGNORE, device=rt.device), {})


def _wait(rt: Runtime) -> None:
    if rt.device.type == "cuda":
        torch.cuda.synchronize(rt.device)
