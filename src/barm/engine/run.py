"""A whole run: for every step build, take over, train, evaluate, store; resume where it stopped."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from barm.data.dataset import EvalDataset, StepDataset, iterations_per_epoch
from barm.data.exemplars import Exemplar, MemoryDataset, from_json, to_json
from barm.data.palette import id_palette
from barm.data.sources.base import Source
from barm.data.transforms import EvalTransform
from barm.engine.checkpoint.differences import AGREEING, BASE, difference, other_class, settings
from barm.engine.checkpoint.directory import COUNTS, MEMORY, METHOD, METRICS, PICTURES, RunDirectory
from barm.engine.checkpoint.network import rebuild
from barm.engine.checkpoint.pictures import Pictures, other_pictures, pictures_of
from barm.engine.checkpoint.provenance import provenance
from barm.engine.checkpoint.shared import SharedDirectory
from barm.engine.config import RunConfig
from barm.engine.crops import chosen_lines
from barm.engine.datasets import Data as Data
from barm.engine.datasets import open_data as open_data
from barm.engine.earlier import scores_of
from barm.engine.evaluate import evaluate
from barm.engine.interrupted import saved, saving, told
from barm.engine.loaders import ordered_batches, train_batches
from barm.engine.memory_use import forget_peak, peak_memory
from barm.engine.monitor import Monitor
from barm.engine.prepare import prepare
from barm.engine.prepare import train_dataset as train_dataset
from barm.engine.runtime import Runtime
from barm.engine.selection import choose_exemplars
from barm.engine.train import StepTrainer, calibrate, train_step
from barm.errors import Stopped, UserError
from barm.escaping import markup
from barm.labels import INCREMENTAL, JOINT, Step, TaskPlan, in_learning_order
from barm.methods import Method
from barm.metrics import certain
from barm.models.segmenter import check_names
from barm.words import count, step_title


class Given(NamedTuple):
    """Steps that a run does not train itself.

    Attributes:
        steps: their indices.
        place: puts those that are missing into the run's folder; called by every process.
    """

    steps: tuple[int, ...]
    place: Callable[[RunDirectory], object]


def run(
    config: RunConfig,
    rt: Runtime,
    path: Path,
    monitor: Monitor,
    *,
    resume: bool = False,
    only: Sequence[int] | None = None,
    start_from: Path | None = None,
    same: Sequence[str] = AGREEING,
    data: Data | None = None,
    given: Given | None = None,
) -> list[dict[str, Any]]:
    """Train and evaluate the steps of a scenario.

    Args:
        config: the whole configuration.
        rt: the runtime.
        path: the run's folder.
        monitor: shows and logs.
        resume: go on in an existing folder.
        only: indices of the steps to do, in any order; all by default. Finished steps are skipped.
        start_from: another run whose step 0, trained with the same settings, is taken over instead of trained.
        same: tables of the configuration in which a resumed run must agree with what it was started with.
        data: as `open_data` returned it; opened here by default.
        given: earlier steps that are put in place instead of trained.

    Returns:
        The metrics of every finished step.

    Raises:
        UserError: for bad input; nothing is left on the disk.
        Failed: a picture is gone, or a process of the loader was killed; what was saved before can be resumed.
        Stopped: someone asked to stop; the state is saved.
    """
    config, data, steps, chosen, warnings = prepare(config, rt, only, data)
    directory, about = SharedDirectory(path, rt), provenance(rt, data.train.class_names, chosen)
    placed = {*(given.steps if given else ()), *([0] if start_from is not None else [])}
    _check_order(directory, [s.index for s in steps], placed)
    datasets = {s.index: train_dataset(config, data, s) for s in steps if not directory.is_complete(s.index)}
    try:
        rt.on_main(lambda: directory.open(config, about, resume=resume, same=same, pictures=pictures_of(data)))
        monitor.open(path, lambda: peak_memory(rt.device))
        for line in chosen_lines(chosen):
            monitor.say(markup(line))
        for line in (*data.warned(config, [s for s in steps if s.index in datasets]), *warnings):
            monitor.say(f"[yellow]warning:[/yellow] {markup(line)}")
        with told(path), rt.catch_signals():
            if start_from is not None:
                rt.on_main(lambda: _adopt(config, directory, RunDirectory(start_from), data))
            if given is not None:
                given.place(directory)
            for step in steps:
                if not directory.is_complete(step.index):
                    _run_step(config, rt, directory, monitor, data, datasets[step.index], step)
        return [directory.read(i, METRICS) for i in directory.finished_steps() if directory.has(i, METRICS)]
    finally:
        directory.close()


def _check_order(directory: RunDirectory, wanted: Sequence[int], placed: set[int]) -> None:
    """Every step follows one that is finished, is trained before it, or is `placed` there."""
    there = {*directory.finished_steps(), *wanted, *placed}
    for index in wanted:
        if index > 0 and index not in directory.finished_steps() and index - 1 not in there:
            directory.require(index - 1)


def _run_step(
    config: RunConfig,
    rt: Runtime,
    directory: RunDirectory,
    monitor: Monitor,
    data: Data,
    dataset: StepDataset,
    step: Step,
) -> None:
    """Train, evaluate and store one step."""
    recipe = config.recipe(step.index)
    method = config.method.build(step, config.model)
    torch.manual_seed(config.seed * 1000 + step.index)
    model, teacher = method.build_model(), None
    partial, exemplars = directory.load_partial(step.index), list[Exemplar]()
    if step.index > 0:
        previous, before = load_step(directory, step.index - 1, data.plan, data.train.class_names)
        method.init_from(model, previous)
        exemplars = _exemplars(config, rt, directory, data, previous, before, partial)
        teacher = rt.constant(previous) if method.uses_teacher else None
        del previous
    model = rt.place(model)
    pictures = _with_memory(config, data, dataset, step, exemplars)

    per_epoch = iterations_per_epoch(len(pictures), recipe.batch_size, rt.world)
    trainer = StepTrainer(method, model, teacher, recipe, recipe.epochs * per_epoch, rt, config.seed)
    if partial is not None:
        found = trainer.misfit(partial)
        if found is not None:
            raise directory.damaged_partial(step.index, found)
        trainer.load_state_dict(partial)
    elif teacher is not None and method.calibrates:
        with train_batches(config, rt, pictures, epochs=1, batch_size=recipe.batch_size, trains=False) as batches:
            calibrate(method, teacher, batches, rt)
    forget_peak(rt.device)
    title = step_title(step.index, len(data.plan))
    monitor.start_step(title, step.index, trainer.iteration, trainer.total, per_epoch, recipe.batch_size * rt.world)
    save = saving(rt, directory, trainer, exemplars)
    finished = _train(config, rt, monitor, data, trainer, pictures, per_epoch, save)
    monitor.end_step()
    if not finished:
        raise Stopped(
            f"stopped at step {step.index}, iteration {trainer.iteration} of {trainer.total}", rt.stop_signal or 15
        )
    trainer.check_finite()
    if trainer.skipped:
        monitor.say(
            f"[yellow]{title}: {count(trainer.skipped, 'updates')} skipped because the loss was not finite[/yellow]"
        )
    network = trainer.network
    rt.share_buffers(network)
    with saved(rt, save):
        counts = evaluate_step(config, rt, method, network, data, step, monitor)
    rt.on_main(lambda: _store(config, directory, monitor, data, step, network.state_dict(), counts, exemplars))


def _train(
    config: RunConfig,
    rt: Runtime,
    monitor: Monitor,
    data: Data,
    trainer: StepTrainer,
    pictures: StepDataset | MemoryDataset,
    per_epoch: int,
    save: Callable[[], None],
) -> bool:
    """The remaining updates of a step; False when someone asked to stop, the state is then saved."""
    recipe = trainer.recipe
    loading = train_batches(
        config, rt, pictures, epochs=recipe.epochs, batch_size=recipe.batch_size, start=trainer.iteration
    )
    with rt.one_shape(), loading as batches, saved(rt, save):
        return train_step(
            trainer,
            batches,
            iterations_per_epoch=per_epoch,
            progress=monitor.progress,
            save=save,
            save_every=config.runtime.save_every,
            log_every=config.runtime.log_every,
            names=lambda batch: [data.train.name(int(i)) for i in batch.extras["index"]],
        )


def _exemplars(
    config: RunConfig,
    rt: Runtime,
    directory: RunDirectory,
    data: Data,
    previous: nn.Module,
    before: Method[Any],
    partial: Mapping[str, Any] | None,
) -> list[Exemplar]:
    """The kept pictures for the step after `before`, or those that the interrupted step has used; mostly none."""
    memory, index = config.method.memory, before.step.index
    if memory is None:
        return []
    if partial is not None:
        return from_json(partial["memory"])
    earlier = from_json(directory.read(index, MEMORY)) if directory.has(index, MEMORY) else []
    pictures = train_dataset(config, data, before.step)
    return choose_exemplars(config, rt, memory, earlier, pictures, rt.constant(previous), before)


def _with_memory(
    config: RunConfig, data: Data, dataset: StepDataset, step: Step, exemplars: Sequence[Exemplar]
) -> StepDataset | MemoryDataset:
    """The step's pictures, with the kept ones where there are any."""
    memory = config.method.memory
    if memory is None or not exemplars:
        return dataset
    supervision = JOINT if memory.labels == "seen" else INCREMENTAL
    policy = replace(supervision, void=config.recipe(step.index).void_label)
    return MemoryDataset(dataset, exemplars, memory, data.plan.train_lut(step, policy))


def evaluate_step(
    config: RunConfig, rt: Runtime, method: Method[Any], model: nn.Module, data: Data, step: Step, monitor: Monitor
) -> Tensor:
    """Confusion counts of a step's network on all validation pictures, ``(C, C)`` int64.

    Where a data set labels only some of the classes, `certain` says which pixels count.
    """
    parts = [(source, count_source(config, rt, method, model, source, data, monitor)) for source in data.measured]
    return torch.stack([certain(counts, data.known(source, step)) for source, counts in parts]).sum(0)


def count_source(
    config: RunConfig, rt: Runtime, method: Method[Any], model: nn.Module, source: Source, data: Data, monitor: Monitor
) -> Tensor:
    """Confusion counts of a step's network on one data set, ``(C, C)`` int64, every labelled pixel counted."""
    step, transform = method.step, EvalTransform(crop=config.evaluation.crop or None)
    policy = replace(method.policy, unseen=0) if config.evaluation.unseen == "background" else method.policy
    dataset = EvalDataset(source, data.plan, step, policy, transform)
    loading, number = ordered_batches(config, rt, dataset)
    one_shape = rt.one_shape(transform.crop is not None)
    with one_shape, loading as batches, monitor.evaluation(step.index, number) as progress:
        return evaluate(method, rt.constant(model), batches, rt, progress)


def _store(
    config: RunConfig,
    directory: RunDirectory,
    monitor: Monitor,
    data: Data,
    step: Step,
    state: dict[str, Tensor],
    counts: Tensor,
    exemplars: Sequence[Exemplar],
) -> None:
    """Write the step and tell what it reached."""
    metrics = scores_of(directory, step, counts, data)
    about = describe_classes(config, data.plan, step, data.train.class_names, data.train.palette)
    if step.index > 0:
        about["classes"] = same_colours(about["classes"], directory.read(step.index - 1, METHOD)["classes"])
    memory = None if config.method.memory is None or step.index == 0 else to_json(exemplars)
    directory.save_step(step.index, state, about, counts, metrics, memory)
    means = {k: v for k, v in metrics["miou"].items() if v is not None}
    monitor.metrics(step.index, means)
    one = len(data.plan) == 1  # then there is one mean
    scores = [f"{v:.3f}" if one else f"{k} {v:.3f}" for k, v in means.items() if k == "all" or not one]
    monitor.say(f"{step_title(0, 1) if one else f'step {step.index}'}: mIoU {' · '.join(scores) or '–'}")


def describe_classes(
    config: RunConfig, plan: TaskPlan, step: Step, class_names: Sequence[str], palette: Any
) -> dict[str, Any]:
    """What it takes to load a step again: method, network, groups, names and colours by channel."""
    return {
        "method": config.method.model_dump(mode="json"),
        "model": config.model.model_dump(mode="json"),
        "groups": step.groups,
        "num_steps": len(plan),
        "classes": [{"id": i, "name": class_names[i], "colour": [int(v) for v in palette[i]]} for i in (0, *step.seen)],
    }


def renumbered(about: Mapping[str, Any], num_steps: int) -> dict[str, Any]:
    """What `describe_classes` said, with ids in learning order, as a step of a run with another number of steps."""
    classes = [{**c, "id": channel} for channel, c in enumerate(about["classes"])]
    return {**about, "groups": in_learning_order(about["groups"]), "num_steps": num_steps, "classes": classes}


def same_colours(classes: Sequence[Mapping[str, Any]], before: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Classes as `describe_classes` has them: those of the step before keep their colours, and no two have one.

    >>> same_colours([{"colour": [0, 0, 0]}, {"colour": [9, 9, 9]}], [{"colour": [9, 9, 9]}])[1]["colour"]
    [128, 0, 0]
    """
    colours = [list(c["colour"]) for c in before]
    for new in classes[len(before) :]:
        free = (c for c in (list(new["colour"]), *id_palette()[1:].tolist()) if c not in colours)
        colours.append(next(free, list(new["colour"])))
    return [{**c, "colour": colour} for c, colour in zip(classes, colours, strict=True)]


def load_step(
    directory: RunDirectory, index: int, plan: TaskPlan | None = None, class_names: Sequence[str] = ()
) -> tuple[nn.Module, Method[Any]]:
    """The network of a finished step in evaluation mode, on the CPU, with its method.

    Args:
        directory: of the run.
        index: of the step.
        plan: of the data that it will be used with, where there are any.
        class_names: of these data by id, background first.

    Raises:
        UserError: if it is not there, or belongs to another task than `plan` or to classes of other names.
    """
    about = directory.read(index, METHOD)
    step = Step(index, tuple(tuple(g) for g in about["groups"]))
    if plan is not None and plan[index] != step:
        raise UserError(
            f"{directory.step_path(index)} learned the groups {about['groups']}, but this task's are "
            f"{[list(g) for g in plan[index].groups]}; use the task it was trained with"
        )
    found = other_class({c["id"]: c["name"] for c in about["classes"]}, class_names) if class_names else None
    if found is not None:
        raise UserError(
            f"{directory.step_path(index)} learned other classes than these data have ({found}): give the data that it "
            "was trained on, or others with the same classes"
        )
    return rebuild(about, index, directory.load_model_state(index), str(directory.step_path(index)))


def check_adoptable(config: RunConfig, other: RunDirectory, pictures: Pictures | None) -> None:
    """Complain unless another run's step 0 is the same training.

    Args:
        config: of the run that would take it over.
        other: the other run.
        pictures: that this one trains on.

    Raises:
        UserError: says what is different.
    """
    theirs = other.config()
    other.require(0)
    found = difference(settings(theirs, BASE), settings(config, BASE))
    if pictures is not None and other.has(0, PICTURES):
        what = other_pictures(other.read(0, PICTURES), pictures)
        if what is not None and found is None:
            raise UserError(f"step 0 of {other.path} was trained on other pictures ({what}): train it here instead")
    else:  # of an older version, which kept no record: of the same folder, at least
        found = found or difference(*({"data.root": str(c.data.root)} for c in (theirs, config)))
    if found is not None:
        raise UserError(
            f"step 0 of {other.path} was trained with another [{found[0]}] ({found[1]}): train it here instead"
        )
    found = difference(theirs.method.base_training, config.method.base_training)
    if found is not None:
        raise UserError(
            f"step 0 of {other.path} was trained by {theirs.method.name}, which minimises something else there than "
            f"{config.method.name} ({found[1]}): train it here instead"
        )


def _adopt(config: RunConfig, directory: RunDirectory, other: RunDirectory, data: Data) -> None:
    """Take over another run's step 0 where it is the same training."""
    if directory.is_complete(0):
        return
    check_adoptable(config, other, directory.pictures)
    state, step = other.load_model_state(0), data.plan[0]
    check_names(config.method.build(step, config.model).build_model().state_dict(), state, set(), str(other.path))
    counts = torch.tensor(other.read(0, COUNTS))
    directory.save_step(
        0,
        state,
        describe_classes(config, data.plan, step, data.train.class_names, data.train.palette),
        counts,
        other.read(0, METRICS),
    )
