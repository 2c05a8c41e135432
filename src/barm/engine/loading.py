"""Batches on the device: of a step's training, with or without exemplars, and of any pictures in order."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import AbstractContextManager, closing
from typing import Any

from torch.utils.data import DataLoader

from barm.batch import Batch
from barm.data.device import finish
from barm.data.index import cores
from barm.data.memory import MemoryDataset, ReplacingSampler
from barm.data.steps import EpochSampler, EvalDataset, Item, StepDataset, StepView, make_eval_loader, make_train_loader
from barm.engine.recipe import RunConfig
from barm.engine.runtime import Runtime

MAX_WORKERS = 8
Batches = AbstractContextManager[Generator[Batch, None, None]]  # to be entered: the loader's processes end with it


def train_batches(
    config: RunConfig,
    rt: Runtime,
    dataset: StepDataset | MemoryDataset,
    *,
    epochs: int,
    batch_size: int,
    start: int = 0,
) -> Batches:
    """The batches of a step from iteration `start` on."""
    step = dataset.step.index
    base = EpochSampler(len(dataset), batch_size, epochs, start, rt.rank, rt.world, config.seed, step)
    sampler = (
        ReplacingSampler(base, len(dataset), len(dataset.kept))
        if isinstance(dataset, MemoryDataset) and dataset.mix == "replace"
        else base
    )
    on_device = config.runtime.augment == "device"
    workers, pin = num_workers(config, rt), rt.device.type == "cuda"
    loader = make_train_loader(dataset, sampler, workers=workers, on_device=on_device, pin=pin)
    return closing(_finished(loader, rt) if on_device else _to_device(loader, rt))


def ordered_batches(config: RunConfig, rt: Runtime, dataset: EvalDataset | StepView) -> tuple[Batches, int]:
    """This process's share of the pictures as in evaluation, and the number of batches."""
    loader = make_eval_loader(
        dataset,
        batch_size=config.evaluation.batch_size,
        rank=rt.rank,
        world=rt.world,
        workers=num_workers(config, rt),
        pin=rt.device.type == "cuda",
    )
    return closing(_to_device(loader, rt)), len(loader)


def num_workers(config: RunConfig, rt: Runtime) -> int:
    """Loader processes of this process."""
    if config.runtime.workers >= 0:
        return config.runtime.workers
    return max(1, min(MAX_WORKERS, cores() // rt.processes_per_node - 1))


def _finished(loader: DataLoader[Any], rt: Runtime) -> Generator[Batch, None, None]:
    """Augment on the device."""
    for items in loader:
        yield finish(items, rt.device)


def _to_device(loader: DataLoader[Item], rt: Runtime) -> Generator[Batch, None, None]:
    """Move batches to the device."""
    for image, label, extras in loader:
        image = image.to(rt.device, non_blocking=True)
        label = label.to(rt.device, non_blocking=True).long()
        yield Batch(image, label, {k: v.to(rt.device, non_blocking=True) for k, v in extras.items()})
