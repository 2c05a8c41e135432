"""`barm extend`: teach a finished network a new class with images in which only that class is labelled."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from barm.data.sampler import iterations_per_epoch
from barm.engine.checkpoint import checksums
from barm.engine.checkpoint.directory import COUNTS, EXTENSION, METHOD, METRICS, RunDirectory
from barm.engine.checkpoint.network import renumbered
from barm.engine.checkpoint.shared import SharedDirectory
from barm.engine.crops import sized
from barm.engine.datasets import train_dataset
from barm.engine.monitor import Monitor
from barm.engine.run import Adopted, run
from barm.engine.runtime import Runtime
from barm.escaping import markup, place
from barm.extension.advice import advice
from barm.extension.drawing import draw
from barm.extension.early import ModelOptions, check_early, default_out
from barm.extension.imported import is_model, make_imported_plan, taken_lines
from barm.extension.measure import agreement, claimed, mean, measure_again, taken_for, trained_parts
from barm.extension.offer import offer
from barm.extension.plan import Plan, Request, make_plan
from barm.weights.importing import import_lines
from barm.words import count, listed

IMAGE = "extension.png"


def extend(
    run: Path | str,
    data: Path | str,
    classes: Sequence[str] = (),
    *,
    model: ModelOptions | None = None,
    out: Path | str | None = None,
    val: Sequence[Path | str] = (),
    step: int | None = None,
    recipe: str | None = None,
    overrides: Sequence[str] = (),
    seed: int | None = None,
    device: str | None = None,
    precision: str | None = None,
    unlabelled: Path | str | None = None,
    resume: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Teach the network of a run new classes, and measure what it knew before and knows afterwards.

    Args:
        run: a finished run, or a trained network of another library as for `barm.weights.importing.import_model`. It is
            not changed; of the latter a run with its step 0 is made first, beside `out`.
        data: images and masks of the new classes; everything else in the masks is background.
        classes: their names; by default all of `data` that the run does not know. Without a ``classes.txt``, the names
            of the mask values 1, 2, ....
        model: what the files of a network of another library do not say.
        out: the new run's folder; by default beside `run`.
        val: data sets that label old classes, to measure what is forgotten; by default those of the run.
        step: extend this step of the run; the last by default.
        recipe: take method and optimisation from this recipe instead of the run.
        overrides: ``table.key=value`` in increment, method, evaluation and runtime.
        seed: another one than the run's.
        device: as in `RuntimeConfig`.
        precision: as in `RuntimeConfig`.
        unlabelled: further images without masks, on which the network is to answer as before.
        resume: go on with an extension that was stopped.
        quiet: show nothing.

    Returns:
        What is written to ``extension.json`` in the new run: IoU of every class before and after, means, advice.
    """
    target = None if out is None else Path(out)
    resume = resume or (target is not None and RunDirectory(target).goes_on)
    places: dict[str, Any] = {"model": model, "out": out, "val": val, "step": step}
    check_early(run, data, classes, **places, recipe=recipe, overrides=overrides, resume=resume)
    request = Request(
        Path(run),
        Path(data),
        classes,
        [Path(v) for v in val],
        step,
        recipe,
        overrides,
        seed,
        device,
        precision,
        None if unlabelled is None else Path(unlabelled),
    )
    lines: list[str] = []
    if is_model(run):
        plan, rt, target = make_imported_plan(
            run,
            request,
            model or ModelOptions(),
            target,
            resume=resume,
            announce=lambda taken: lines.extend([*import_lines(taken), *taken_lines(taken, model or ModelOptions())]),
        )
    else:
        plan, rt = make_plan(request)
        target = target or default_out(request.run, plan.new)
    resume = resume or RunDirectory(target).goes_on
    rt.on_main(lambda: RunDirectory(target).check_place(resume=resume))  # before anything is announced
    with Monitor(rt.is_main, quiet=quiet, tensorboard=plan.config.runtime.tensorboard) as monitor:
        for line in lines:
            monitor.say(markup(line))
        return _extend(plan, rt, target, monitor, resume)


def _extend(plan: Plan, rt: Runtime, target: Path, monitor: Monitor, resume: bool) -> dict[str, Any]:
    """Train the step between the two measurements."""
    directory = SharedDirectory(target, rt)
    known = range(plan.step)
    settled = replace(plan, config=sized(plan.config, plan.data, [plan.step], rt.world, known).config)
    images = len(train_dataset(settled.config, plan.data, plan.data.plan[plan.step]))
    told = f"{plan.known.directory.path} learns {listed(plan.new)} from {count(images, 'images')} of "
    monitor.say(markup(f"{told}{place(str(plan.config.data.root))}"))
    for note in plan.notes:
        monitor.say(f"[yellow]{markup(note)}[/yellow]")
    quicker = offer(plan, rt, _updates(settled, rt, images))
    if quicker is not None:
        monitor.say(markup(quicker))

    def take(new_run: RunDirectory) -> None:
        rt.on_main(lambda: _take_steps(plan, new_run))
        measure_again(plan, rt, new_run, monitor)

    adopted = Adopted(tuple(known), take)
    run(plan.config, rt, target, monitor, resume=resume, only=[plan.step], data=plan.data, adopted=adopted)
    result = _result(settled, rt, directory, monitor, images)
    rt.on_main(lambda: checksums.replace(target, {EXTENSION: (json.dumps(result, indent=1) + "\n").encode()}))
    rt.on_main(lambda: draw(plan, rt, directory, target / IMAGE))
    return result


def _take_steps(plan: Plan, directory: RunDirectory) -> None:
    """Copy the run's steps to the new run, with class ids in learning order, without its measurements."""
    source = plan.known.directory
    for index in [i for i in source.finished_steps() if i < plan.step]:
        if not directory.is_complete(index):
            record = renumbered(source.read(index, METHOD), num_steps=len(plan.data.plan))
            directory.take_step(index, source, {METHOD: record}, leave=(COUNTS, METRICS))


def _updates(plan: Plan, rt: Runtime, images: int) -> int:
    """Number of updates of the step on so many images; 0 for a method that trains nothing there."""
    recipe = plan.config.increment
    trains = plan.config.method.build(plan.data.plan[plan.step], plan.config.model).trains
    return recipe.length(iterations_per_epoch(images, recipe.batch_size, rt.world)) if trains else 0


def _result(plan: Plan, rt: Runtime, directory: RunDirectory, monitor: Monitor, images: int) -> dict[str, Any]:
    """Compare the stored scores of the previous step and the new one."""
    then, now = (directory.read(step, METRICS)["class_iou"] for step in (plan.known.step, plan.step))
    old = {name: now[name] if then[name] is not None else None for name in then}
    agreed = None if any(then[name] is not None for name in plan.known.classes) else agreement(plan, rt, directory)
    recipe = plan.config.increment
    result = {
        "run": str(directory.path),
        "from": str(plan.known.directory.path),
        "step": plan.step,
        "learned": list(plan.new),
        "method": plan.config.method.name,
        "images": images,
        "updates": _updates(plan, rt, images),
        "old": {"before": mean(then), "after": mean(old)},
        "new": mean({name: now[name] for name in plan.new}),
        "class_iou": {name: {"before": then.get(name), "after": now[name]} for name in now},
        "taken_for": taken_for(plan, torch.tensor(directory.read(plan.step, COUNTS))),
        "agreement": agreed,
        "claimed": claimed(plan, rt, directory, monitor),
        "notes": list(plan.notes),
    }
    return {**result, "advice": advice(result, recipe, trained_parts(plan, directory))}
