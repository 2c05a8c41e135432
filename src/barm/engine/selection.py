"""Selection of the exemplar memory between two steps: find the classes in the images, and choose the images to keep."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from barm.data.dataset import StepDataset, StepView
from barm.data.exemplars import Exemplar, MemoryConfig
from barm.data.transforms import EvalTransform
from barm.engine.config import RunConfig
from barm.engine.loaders import ordered_batches
from barm.engine.runtime import Runtime
from barm.labels import IGNORE
from barm.methods.base import Method
from barm.models.frozen import Constant


def choose_exemplars(
    config: RunConfig,
    rt: Runtime,
    memory: MemoryConfig,
    earlier: list[Exemplar],
    dataset: StepDataset,
    network: Constant,
    method: Method[Any, Any],
) -> list[Exemplar]:
    """Select the memory of the next step.

    Args:
        config: of the run.
        rt: the runtime.
        memory: configuration of the memory.
        earlier: the memory of the step that has ended.
        images: images of the step that has ended.
        network: as that step left it.
        method: at that step.

    Returns:
        The kept images with the classes they show, the same in every process.
    """
    shown = presence(config, rt, memory, dataset, network, method)
    names = [dataset.source.name(i) for i in dataset.images]
    found = [Exemplar(n, tuple(row.nonzero().flatten().tolist())) for n, row in zip(names, shown, strict=True)]
    return draw_exemplars([*earlier, *found], method.step.num_seen, memory, config.seed)


def presence(
    config: RunConfig,
    rt: Runtime,
    memory: MemoryConfig,
    dataset: StepDataset,
    network: Constant,
    method: Method[Any, Any],
) -> torch.Tensor:
    """Find the classes in every image as evaluation crops it, ``(images, C)`` bool on the CPU; no background.

    After step 0 these are the labels; later the network adds old classes that it surely sees.
    """
    step = method.step
    place = {image: row for row, image in enumerate(dataset.images)}
    shown = torch.zeros(len(dataset), step.num_seen, dtype=torch.int32, device=rt.device)
    view = StepView(dataset, EvalTransform(crop=config.evaluation.crop or None))
    loading, _ = ordered_batches(config, rt, view)
    with loading as batches:
        for batch in batches:
            label = batch.label
            if step.index > 0:
                label = method.annotate(network(batch.image), batch, memory.threshold)
            for index, one in zip(batch.extras["index"].tolist(), label, strict=True):
                shown[place[index], list(channels_in(one))] = 1
    return rt.all_sum(shown).bool().cpu()


def channels_in(label: Tensor) -> tuple[int, ...]:
    """The classes in a label map of any shape, ascending, without background and 255.

    >>> channels_in(torch.tensor([0, 2, 2, 255, 1]))
    (1, 2)
    """
    return tuple(c for c in torch.unique(label).tolist() if c not in (0, IGNORE))


def draw_exemplars(
    candidates: Sequence[Exemplar], num_channels: int, config: MemoryConfig, seed: int
) -> list[Exemplar]:
    """Select the memory: shuffle candidates and classes, then let every class in turn take an image.

    Args:
        candidates: the last memory, then the images of the step that has ended; an image that is in both shows the
            classes of both.
        num_channels: of the model before this step, background included.
        config: size, and whether an image may be kept twice.
        seed: of both shuffles, by numpy's legacy generator as published.

    Returns:
        At most `config.size` images, by the class they were taken for.
    """
    rng = np.random.RandomState(seed)
    pool, order = list(candidates), list(range(1, num_channels))
    if config.unique:
        pool = _merged(pool)
    rng.shuffle(pool)
    rng.shuffle(order)
    return take_in_turn(pool, order, config.size)


def _merged(pool: Sequence[Exemplar]) -> list[Exemplar]:
    """Merge records of the same image: each image once, at its last place, with all its classes."""
    channels: dict[str, set[int]] = {}
    for exemplar in reversed(pool):
        channels.setdefault(exemplar.name, set()).update(exemplar.channels)
    return [Exemplar(name, tuple(sorted(shown))) for name, shown in channels.items()][::-1]


def take_in_turn(pool: Sequence[Exemplar], order: Sequence[int], size: int) -> list[Exemplar]:
    """Let every class in turn take the first remaining image that shows it, until `size` are taken.

    Unlike the published loops it ends when a round finds nothing. Source: spec/ssul.md 12.1, spec/dkd.md section 8.

    >>> a, b = Exemplar("a", (1, 2)), Exemplar("b", (1,))
    >>> [e.name for e in take_in_turn([a, b], order=[2, 1], size=2)]
    ['b', 'a']
    """
    showing = {channel: deque[int]() for channel in order}
    for place, exemplar in enumerate(pool):
        for channel in exemplar.channels:
            if channel in showing:
                showing[channel].append(place)
    gone, taken = set[int](), {channel: list[Exemplar]() for channel in sorted(order)}
    progress = True
    while progress and len(gone) < size:
        progress = False
        for channel in order:
            queue = showing[channel]
            while queue and queue[0] in gone:
                queue.popleft()
            if queue and len(gone) < size:
                place = queue.popleft()
                gone.add(place)
                taken[channel].append(pool[place])
                progress = True
    return [exemplar for group in taken.values() for exemplar in group]
