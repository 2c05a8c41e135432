"""Measurements before and after an extension, on the same images."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor

from barm.data.sources.named import labelled
from barm.engine.checkpoint.directory import COUNTS, IMAGES, METRICS, RunDirectory
from barm.engine.checkpoint.images import images_of
from barm.engine.checkpoint.network import load_step
from barm.engine.datasets import eval_dataset
from barm.engine.evaluate import count_source, evaluate_step
from barm.engine.loaders import ordered_batches
from barm.engine.monitor import Monitor
from barm.engine.runtime import Runtime
from barm.engine.scores import scores_of
from barm.extension.plan import Plan
from barm.methods.groups import Rates
from barm.metrics import class_accuracy, confusion_counts

Scores = dict[str, float | None]


def count_step(plan: Plan, rt: Runtime, directory: RunDirectory, step: int, monitor: Monitor) -> Tensor:
    """Count confusions of a finished step on the images of the plan."""
    network, method = load_step(directory, step, plan.data.plan, plan.data.train.class_names)
    return evaluate_step(plan.config, rt, method, network, plan.data, method.step, monitor)


def measure_again(plan: Plan, rt: Runtime, directory: RunDirectory, monitor: Monitor) -> None:
    """Measure the earlier steps on the images of the plan, if they have no counts on these.

    The run that they come from has measured them on other images, and perhaps in another view. An extension that an
    older version began has kept those scores, without a record; they go, and what a finished step derived from them.
    """
    data, images = plan.data, {"measured": images_of(plan.data)["measured"]}
    absent = plan.config.evaluation.absent
    steps, again = [i for i in directory.finished_steps() if i <= plan.step], False
    for index in steps:
        step, told = data.plan[index], directory.has(index, METRICS) and directory.has(index, IMAGES)
        if index == plan.step and again:
            counts = torch.tensor(directory.read(index, COUNTS))
            metrics = scores_of(directory, step, counts, data, absent=absent)
            rt.on_main(partial(directory.add, index, {METRICS: metrics}))
        elif index < plan.step and not told:
            counts, again = count_step(plan, rt, directory, index, monitor), True
            metrics = scores_of(directory, step, counts, data, absent=absent)
            files = {IMAGES: images, COUNTS: counts.tolist(), METRICS: metrics}
            rt.on_main(partial(directory.add, index, files))


def taken_for(plan: Plan, counts: Tensor) -> dict[str, dict[str, float]]:
    """Confusion of the new classes: for each, the share of its pixels by predicted name."""
    step, names = plan.data.plan[plan.step], plan.data.train.class_names
    called = [names[i] for i in (0, *step.seen)]
    return {
        names[i]: {called[c]: float(row[c] / row.sum()) for c in row.argsort(descending=True).tolist() if row[c]}
        for i, row in zip(step.new, counts[step.num_old :], strict=True)
    }


def claimed(plan: Plan, rt: Runtime, directory: RunDirectory, monitor: Monitor) -> float | None:
    """Share of the background that is predicted as a new class, in images in which no new class is labelled.

    None where there are no such images, or none of their pixels is background.
    """
    new = set(plan.data.plan[plan.step].new)
    silent = [source for source in plan.data.measured if not new & labelled(source)]
    if not silent:
        return None
    network, method = load_step(directory, plan.step, plan.data.plan, plan.data.train.class_names)
    counts = sum(
        (count_source(plan.config, rt, method, network, source, plan.data, monitor) for source in silent),
        torch.zeros((), dtype=torch.int64),
    )
    background = int(counts[0].sum())
    return float(counts[0, method.step.num_old :].sum() / background) if background else None


def trained_parts(plan: Plan, directory: RunDirectory) -> set[str]:
    """Parts of the network, as in `Rates`, whose learning rate changes something in the new step."""
    network, method = load_step(directory, plan.step, plan.data.plan, plan.data.train.class_names)
    marked = Rates(**{part: 1.0 + i for i, part in enumerate(Rates.model_fields)})
    used = {group["lr"] for group in method.param_groups(network, marked) if group["params"]}
    return {part for part in Rates.model_fields if getattr(marked, part) in used}


def agreement(plan: Plan, rt: Runtime, directory: RunDirectory) -> Scores | None:
    """For every old class, the share of the old network's pixels that the new network gives the same class.

    Measured on validation images, without the pixels labelled as a new class; None for a class that the old network
    predicts nowhere, and None in all if no pixel is left. This is no accuracy: where the old network errs, the new one
    may be right.
    """
    old, new = (load_step(directory, step, plan.data.plan) for step in (plan.known.step, plan.step))
    networks = [rt.constant(old[0]), rt.constant(new[0])]
    step, channels = new[1].step, new[1].step.num_seen
    counts = torch.zeros(channels, channels, dtype=torch.int64, device=rt.device)
    for source in plan.data.measured:
        dataset = eval_dataset(plan.config, plan.data, source, step, new[1].policy)
        loading, _ = ordered_batches(plan.config, rt, dataset)
        with loading as batches:
            for batch in batches:
                before, after = (
                    m.predict(n(batch.image), batch.size) for n, m in zip(networks, (old[1], new[1]), strict=True)
                )
                before = torch.where((batch.label >= step.num_old) & (batch.label < channels), 255, before)
                counts += confusion_counts(after, before, channels)
    counts = rt.all_sum(counts).cpu()
    if not int(counts.sum()):
        return None
    names, shares = plan.data.train.class_names, class_accuracy(counts)
    return {
        names[i]: float(shares[c]) if int(counts[c].sum()) else None
        for c, i in enumerate((0, *plan.data.plan[plan.known.step].seen))
    }


def mean(values: Scores) -> float | None:
    """Mean over the measured values; None if there are none."""
    found = [v for v in values.values() if v is not None]
    return float(np.mean(found)) if found else None
