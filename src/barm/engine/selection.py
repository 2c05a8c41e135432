"""Choosing the exemplar memory before a step: what the last step's pictures show, and which of them stay."""

from __future__ import annotations

from typing import Any

import torch

from barm.data.dataset import StepDataset, StepView
from barm.data.exemplars import Exemplar, MemoryConfig, channels_in, draw_exemplars
from barm.data.transforms import EvalTransform
from barm.engine.config import RunConfig
from barm.engine.loaders import ordered_batches
from barm.engine.runtime import Constant, Runtime
from barm.methods import Method


def choose_exemplars(
    config: RunConfig,
    rt: Runtime,
    memory: MemoryConfig,
    earlier: list[Exemplar],
    pictures: StepDataset,
    network: Constant,
    method: Method[Any],
) -> list[Exemplar]:
    """The memory of the step that follows.

    Args:
        config: of the run.
        rt: the runtime.
        memory: how much is kept.
        earlier: the memory of the step that has ended.
        pictures: of the step that has ended.
        network: as that step left it.
        method: at that step.

    Returns:
        The kept pictures with the classes they show, the same in every process.
    """
    shown = presence(config, rt, memory, pictures, network, method)
    names = [pictures.source.name(i) for i in pictures.images]
    found = [Exemplar(n, tuple(row.nonzero().flatten().tolist())) for n, row in zip(names, shown, strict=True)]
    return draw_exemplars([*earlier, *found], method.step.num_seen, memory, config.seed)


def presence(
    config: RunConfig,
    rt: Runtime,
    memory: MemoryConfig,
    pictures: StepDataset,
    network: Constant,
    method: Method[Any],
) -> torch.Tensor:
    """Which classes each picture shows in the evaluation's view, ``(pictures, C)`` bool on the CPU; no background.

    After step 0 these are the labels; later the network adds old classes that it surely sees.
    """
    step = method.step
    place = {image: row for row, image in enumerate(pictures.images)}
    shown = torch.zeros(len(pictures), step.num_seen, dtype=torch.int32, device=rt.device)
    view = StepView(pictures, EvalTransform(crop=config.evaluation.crop or None))
    loading, _ = ordered_batches(config, rt, view)
    with loading as batches:
        for batch in batches:
            label = batch.label
            if step.index > 0:
                label = method.annotate(network(batch.image), batch, memory.threshold)
            for index, one in zip(batch.extras["index"].tolist(), label, strict=True):
                shown[place[index], list(channels_in(one))] = 1
    return rt.all_sum(shown).bool().cpu()
