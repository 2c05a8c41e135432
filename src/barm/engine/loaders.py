"""Batches on the device: for a step's training, with or without exemplars, or for any images in order.

The processes of a loader end with its pass, however that ends. A missing image or a killed process is one line. In
passes without training all processes together obey a request to stop before the next batch.
"""

from __future__ import annotations

import signal
from collections.abc import Generator
from contextlib import AbstractContextManager, closing, nullcontext
from typing import Any

from torch.utils.data import DataLoader, Sampler

from barm.batch import Batch
from barm.data.beside import BesideDataset
from barm.data.dataset import EvalDataset, Item, StepDataset, StepView
from barm.data.device_transforms import finish
from barm.data.exemplars import MemoryDataset
from barm.data.index import cores
from barm.data.loader import (
    Unread,
    end_workers,
    lost_worker,
    make_eval_loader,
    make_train_loader,
    no_signal_of_children,
    same_size_batches,
)
from barm.data.sampler import BesideSampler, EpochSampler, Key, OnceSampler, ReplacingSampler
from barm.engine.config import RunConfig
from barm.engine.runtime import Runtime
from barm.errors import Failed, Stopped
from barm.reading import short

MAX_WORKERS = 8
Batches = AbstractContextManager[Generator[Batch, None, None]]  # to be entered: the loader's processes end with it


def train_batches(
    config: RunConfig,
    rt: Runtime,
    dataset: StepDataset | MemoryDataset | BesideDataset,
    *,
    total: int,
    batch_size: int,
    start: int = 0,
    trains: bool = True,
) -> Batches:
    """The `total` batches of a step, from iteration `start` on.

    With `trains` the caller handles a request to stop; otherwise it ends the pass here.
    """
    step = dataset.step.index
    base = EpochSampler(len(dataset), batch_size, total, start, rt.rank, rt.world, config.seed, step)
    own = dataset.current if isinstance(dataset, BesideDataset) else dataset
    replacing = isinstance(own, MemoryDataset) and own.mix == "replace"
    labelled = ReplacingSampler(base, len(own), own.positions - len(own)) if replacing else base
    sampler: Sampler[list[Key]] = labelled
    if isinstance(dataset, BesideDataset):
        beside = config.recipe(step).unlabelled or batch_size
        sampler = BesideSampler(labelled, dataset.first, len(dataset.unlabelled), beside)
    on_device = config.runtime.augment == "device"
    workers, pin = num_workers(config, rt), rt.device.type == "cuda"
    loader = make_train_loader(dataset, sampler, workers=workers, on_device=on_device, pin=pin)
    batches = _finished(loader, rt) if on_device else _to_device(loader, rt)
    return closing(batches if trains else _stoppable(batches, rt, len(loader)))


def once_batches(config: RunConfig, rt: Runtime, dataset: StepDataset, batch_size: int) -> tuple[Batches, int]:
    """Batches of this process's share of a step's images, each once, augmented; and the number of batches."""
    sampler = OnceSampler(len(dataset), batch_size, rt.rank, rt.world)
    on_device = config.runtime.augment == "device"
    workers, pin = num_workers(config, rt), rt.device.type == "cuda"
    loader = make_train_loader(dataset, sampler, workers=workers, on_device=on_device, pin=pin)
    batches = _finished(loader, rt) if on_device else _to_device(loader, rt)
    rounds = -(-len(dataset) // (batch_size * rt.world))
    return closing(_stoppable(batches, rt, rounds)), len(sampler)


def ordered_batches(config: RunConfig, rt: Runtime, dataset: EvalDataset | StepView) -> tuple[Batches, int]:
    """Batches of this process's share of the images as in evaluation, and the number of batches."""
    batch_size = config.evaluation.batch_size
    loader = make_eval_loader(
        dataset,
        batch_size=batch_size,
        rank=rt.rank,
        world=rt.world,
        workers=num_workers(config, rt),
        pin=rt.device.type == "cuda",
    )
    rounds = -(-len(same_size_batches(dataset.shapes(), batch_size)) // rt.world)  # of the process with the most
    return closing(_stoppable(_to_device(loader, rt), rt, rounds)), len(loader)


def num_workers(config: RunConfig, rt: Runtime) -> int:
    """Number of loader processes of this process."""
    if config.runtime.workers >= 0:
        return config.runtime.workers
    return max(1, min(MAX_WORKERS, cores() // rt.processes_per_node - 1))


def _finished(loader: DataLoader[Any], rt: Runtime) -> Generator[Batch, None, None]:
    """Augment batches on the device."""
    with closing(_items(loader)) as several:
        for items in several:
            yield finish(items, rt.device)


def _to_device(loader: DataLoader[Item], rt: Runtime) -> Generator[Batch, None, None]:
    """Move batches to the device."""
    with closing(_items(loader)) as items:
        for image, label, extras in items:
            image = image.to(rt.device, non_blocking=True)
            label = label.to(rt.device, non_blocking=True).long()
            yield Batch(image, label, {k: v.to(rt.device, non_blocking=True) for k, v in extras.items()})


def _items(loader: DataLoader[Any]) -> Generator[Any, None, None]:
    """Yield what the loader gives until an image cannot be read; then end the loader's processes."""
    with no_signal_of_children() if loader.num_workers else nullcontext():
        iterator = iter(loader)
        try:
            while True:
                try:
                    item = next(iterator)
                except StopIteration:
                    return
                except (EOFError, OSError, RuntimeError) as error:
                    if not lost_worker(iterator):
                        raise
                    raise Failed(
                        f"a process that reads images was killed ({short(error)}): mostly for want of memory; set "
                        "runtime.workers lower, or 0"
                    ) from error
                if isinstance(item, Unread):
                    raise Failed(item.message)
                yield item
        finally:
            end_workers(iterator)


def _stoppable(batches: Generator[Batch, None, None], rt: Runtime, rounds: int) -> Generator[Batch, None, None]:
    """Yield batches until any process is asked to stop.

    `rounds` is the same in all processes, although each may have fewer batches.
    """
    with closing(batches):
        for _ in range(rounds):
            if rt.stopping():
                raise Stopped("stopped", rt.stop_signal or signal.SIGTERM)
            batch = next(batches, None)
            if batch is not None:
                yield batch
