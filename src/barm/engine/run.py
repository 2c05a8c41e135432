"""A whole run: build, initialise, train, evaluate and store every step; resume where it stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from barm.data.beside import BesideDataset
from barm.data.dataset import StepDataset
from barm.data.exemplars import Exemplar, MemoryDataset, from_json, to_json
from barm.data.sampler import iterations_per_epoch
from barm.engine.adoption import adopt, check_adoptable
from barm.engine.checkpoint.differences import AGREEING
from barm.engine.checkpoint.directory import IMAGES, MEMORY, METHOD, METRICS, RunDirectory
from barm.engine.checkpoint.images import images_of
from barm.engine.checkpoint.network import describe_classes, load_step, same_colours
from barm.engine.checkpoint.provenance import other_code, other_conditions, provenance, unknown_code
from barm.engine.checkpoint.shared import SharedDirectory
from barm.engine.compilation import with_compiler
from barm.engine.completion import completed
from barm.engine.config import RunConfig
from barm.engine.crops import chosen_lines
from barm.engine.datasets import Data, train_dataset, training_images
from barm.engine.evaluate import evaluate_step
from barm.engine.loaders import Batches, train_batches
from barm.engine.memory_use import forget_peak, peak_memory
from barm.engine.monitor import Monitor
from barm.engine.prepare import prepare
from barm.engine.runtime import Runtime
from barm.engine.scores import scores_of
from barm.engine.selection import choose_exemplars
from barm.engine.train import StepTrainer, calibrate, train_step, warm_start
from barm.errors import Failed, Stopped, UserError
from barm.escaping import markup
from barm.labels import Step
from barm.methods.base import Method
from barm.words import count, step_title

OVERRULED = "--set KEY=VALUE takes another value; --dry-run says beforehand how long training takes"


class Adopted(NamedTuple):
    """Steps that a run does not train itself.

    Attributes:
        steps: their indices.
        place: a function that puts missing steps into the run's folder; every process calls it.
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
    adopted: Adopted | None = None,
) -> list[dict[str, Any]]:
    """Train and evaluate the steps of a task.

    Args:
        config: the whole configuration.
        rt: the runtime.
        path: the run's folder.
        monitor: shows and logs.
        resume: go on in an existing folder, as processes do that torchrun starts again.
        only: indices of the steps to do, in any order; all by default. Finished steps are skipped.
        start_from: another run whose step 0, trained with the same settings, is taken over instead of trained.
        same: tables of the configuration in which a resumed run must agree with what it was started with.
        data: as `open_data` returned it; opened here by default.
        adopted: earlier steps that are put in place instead of trained.

    Returns:
        The metrics of every finished step.

    Raises:
        UserError: for bad input; nothing is left on the disk.
        Failed: an image is missing, or a process of the loader was killed; the last saved state can be resumed.
        Stopped: someone asked to stop; the state is saved.
    """
    ready = prepare(config, rt, only, data, adopted.steps if adopted else ())
    directory, steps, data = SharedDirectory(path, rt), ready.steps, ready.data
    placed = {*(adopted.steps if adopted else ()), *([0] if start_from is not None else [])}
    _check_order(directory, [s.index for s in steps], placed)
    again = resume or rt.from_main(lambda: RunDirectory(path).goes_on)
    done = {*placed, *directory.finished_steps()}
    with told(path), rt.catch_signals():
        ready = with_compiler(ready, rt, path, resume=again, done=done, say=monitor.say)
    config, chosen, lines = ready.config, ready.chosen, list(ready.warnings)
    record = provenance(rt, data.train.class_names, chosen, data.saliency)
    datasets = {s.index: train_dataset(config, data, s) for s in steps if not directory.is_complete(s.index)}

    def begin() -> None:
        if start_from is not None and 0 not in RunDirectory(path).finished_steps():
            check_adoptable(config, RunDirectory(start_from), images_of(data))
        lines.extend(_changes(path, config, record) if again and datasets else ())
        directory.open(_stored(config), record, resume=again, same=same, images=images_of(data))

    try:
        rt.on_main(begin)
        monitor.open(path, lambda: peak_memory(rt.device))
        settled = chosen_lines(chosen, datasets)
        for line in (*settled, *([OVERRULED] if settled and not again else [])):
            monitor.say(markup(line))
        for line in (*data.warned(config, [s for s in steps if s.index in datasets]), *lines):
            monitor.say(f"[yellow]warning:[/yellow] {markup(line)}")
        with told(path), rt.catch_signals():
            if start_from is not None:
                rt.on_main(lambda: adopt(config, directory, RunDirectory(start_from), data))
            if adopted is not None:
                adopted.place(directory)
            for step in steps:
                if not directory.is_complete(step.index):
                    _run_step(config, rt, directory, monitor, data, datasets[step.index], step)
        return [directory.read(i, METRICS) for i in directory.finished_steps() if directory.has(i, METRICS)]
    finally:
        directory.close()


def _changes(path: Path, config: RunConfig, now: Mapping[str, Any]) -> list[str]:
    """Warn where a run goes on with other code than it was trained with last, or under other conditions.

    Raises:
        UserError: if that would change within a step, unless the configuration allows it.
    """
    run = RunDirectory(path)
    begun = run.has_partial()
    trained = begun or any(run.has(i, IMAGES) for i in run.finished_steps())  # not imported alone
    if not trained:
        return []
    before = run.provenance()
    found = other_code(before, now)
    if found is not None and begun and not config.runtime.other_code:
        raise UserError(
            f"a step of {path} was begun with other code ({found}): resume it with the same, or allow the change with "
            "--set runtime.other_code=true"
        )
    several = (
        ("goes on with other code than before ({})", found),
        ("may go on with other code than before, which cannot be known ({})", unknown_code(before, now)),
        ("goes on under other conditions than before ({}): the result may be another", other_conditions(before, now)),
    )
    return [f"{path} {told.format(what)}" for told, what in several if what is not None]


def _stored(config: RunConfig) -> RunConfig:
    """The configuration as a run keeps it: a change of code is allowed for one start."""
    return config.model_copy(update={"runtime": config.runtime.model_copy(update={"other_code": False})})


def _check_order(directory: RunDirectory, wanted: Sequence[int], placed: set[int]) -> None:
    """Check that every step follows one that is finished, is trained before it, or is `placed` there."""
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
    method = config.method.build(step, config.model)
    method.set_conditions(data.plan.setting, rt.rank, rt.world)
    if config.method.class_balance:
        method.set_pixels(torch.from_numpy(dataset.pixels()[: step.num_seen]))
    torch.manual_seed(config.seed * 1000 + step.index)
    model, previous, known = method.build_model(), None, None
    partial, exemplars = directory.load_partial(step.index), list[Exemplar]()
    if step.index > 0:
        previous, before = load_step(directory, step.index - 1, data.plan, data.train.class_names)
        if method.carries:
            method.take_over(directory.load_carried(step.index - 1))
        method.init_from(model, previous)
        known = (previous, before) if method.finishes or method.asks_previous is not None else None
        exemplars = _exemplars(config, rt, directory, data, previous, before, partial)
    model = rt.place(model)
    if method.trains:
        images = training_images(config, data, dataset, step, exemplars)
        trainer, per_epoch = _trainer(config, rt, directory, method, model, previous, images, partial)
        save = saving(rt, directory, trainer, exemplars)
        _trained(config, rt, monitor, data, trainer, images, per_epoch, save)
        model = trainer.network
    else:
        save = _nothing
    del previous
    rt.share_buffers(model)
    with saved(rt, save):
        network = completed(config, rt, method, model, known, dataset, monitor)
        counts = evaluate_step(config, rt, method, network, data, step, monitor)
    carried = method.hand_on() if method.carries else None
    rt.on_main(lambda: _store(config, directory, monitor, data, step, network.state_dict(), counts, exemplars, carried))


def _trainer(
    config: RunConfig,
    rt: Runtime,
    directory: RunDirectory,
    method: Method[Any, Any],
    model: nn.Module,
    previous: nn.Module | None,
    images: StepDataset | MemoryDataset | BesideDataset,
    partial: dict[str, Any] | None,
) -> tuple[StepTrainer, int]:
    """The trainer of a step, fresh and calibrated or as it was saved, and the number of updates of an epoch."""
    recipe = config.recipe(method.step.index)
    per_epoch = iterations_per_epoch(len(images), recipe.batch_size, rt.world)
    total = recipe.length(per_epoch)
    own = images.current if isinstance(images, BesideDataset) else images

    def once() -> Batches:
        passed = iterations_per_epoch(len(own), recipe.batch_size, rt.world)
        return train_batches(config, rt, own, total=passed, batch_size=recipe.batch_size, trains=False)

    warms = method.warms and partial is None
    before = rt.constant(previous) if previous is not None and (method.uses_teacher or warms) else None
    if before is not None and warms:
        with once() as batches:
            warm_start(method, model, before, batches, rt)
    teacher = before if method.uses_teacher else None
    method.set_length(per_epoch, total)
    trainer = StepTrainer(method, model, teacher, recipe, total, rt, config.seed)
    if partial is not None:
        found = trainer.misfit(partial)
        if found is not None:
            raise directory.damaged_partial(method.step.index, found)
        trainer.load_state_dict(partial)
    elif teacher is not None and method.calibrates:
        with once() as batches:
            calibrate(method, teacher, batches, rt)
    return trainer, per_epoch


def _trained(
    config: RunConfig,
    rt: Runtime,
    monitor: Monitor,
    data: Data,
    trainer: StepTrainer,
    images: StepDataset | MemoryDataset | BesideDataset,
    per_epoch: int,
    save: Callable[[], None],
) -> None:
    """Train a step to its end.

    Raises:
        Stopped: someone asked to stop; the state is saved.
    """
    step = trainer.method.step.index
    title, batch_size = step_title(step, len(data.plan)), trainer.recipe.batch_size * rt.world
    forget_peak(rt.device)
    monitor.start_step(title, step, trainer.iteration, trainer.total, per_epoch, batch_size)
    loading = train_batches(
        config, rt, images, total=trainer.total, batch_size=trainer.recipe.batch_size, start=trainer.iteration
    )
    with rt.one_shape(), loading as batches, saved(rt, save):
        finished = train_step(
            trainer,
            batches,
            iterations_per_epoch=per_epoch,
            progress=monitor.progress,
            save=save,
            save_every=config.runtime.save_every,
            log_every=config.runtime.log_every,
            names=lambda batch: [data.train.name(i) for i in batch.extras["index"].tolist() if i >= 0],
        )
    monitor.end_step()
    if not finished:
        raise Stopped(f"stopped at step {step}, iteration {trainer.iteration} of {trainer.total}", rt.stop_signal or 15)
    trainer.release()
    trainer.check_finite()
    if trainer.skipped:
        skipped = count(trainer.skipped, "updates")
        monitor.say(f"[yellow]{title}: {skipped} skipped because the loss or its gradient was not finite[/yellow]")


def _nothing() -> None:
    """Save nothing: a step without updates starts again."""


def _exemplars(
    config: RunConfig,
    rt: Runtime,
    directory: RunDirectory,
    data: Data,
    previous: nn.Module,
    before: Method[Any, Any],
    partial: Mapping[str, Any] | None,
) -> list[Exemplar]:
    """Exemplars for the step after `before`, or those that the interrupted step has used; empty for most methods."""
    memory, index = config.method.memory, before.step.index
    if memory is None:
        return []
    if partial is not None:
        return from_json(partial["memory"])
    earlier = from_json(directory.read(index, MEMORY)) if directory.has(index, MEMORY) else []
    images = train_dataset(config, data, before.step)
    return choose_exemplars(config, rt, memory, earlier, images, rt.constant(previous), before)


def _store(
    config: RunConfig,
    directory: RunDirectory,
    monitor: Monitor,
    data: Data,
    step: Step,
    state: dict[str, Tensor],
    counts: Tensor,
    exemplars: Sequence[Exemplar],
    carried: Mapping[str, Tensor] | None,
) -> None:
    """Store the finished step and report its scores."""
    metrics = scores_of(directory, step, counts, data, absent=config.evaluation.absent)
    record = describe_classes(config, data.plan, step, data.train.class_names, data.train.palette)
    if step.index > 0:
        record["classes"] = same_colours(record["classes"], directory.read(step.index - 1, METHOD)["classes"])
    memory = None if config.method.memory is None or step.index == 0 else to_json(exemplars)
    directory.save_step(step.index, state, record, counts, metrics, memory, carried)
    means = {k: v for k, v in metrics["miou"].items() if v is not None}
    monitor.metrics(step.index, means)
    one = len(data.plan) == 1  # then there is one mean
    scores = [f"{v:.3f}" if one else f"{k} {v:.3f}" for k, v in means.items() if k == "all" or not one]
    monitor.say(f"{step_title(0, 1) if one else f'step {step.index}'}: mIoU {' · '.join(scores) or '–'}")


def saving(
    rt: Runtime, directory: RunDirectory, trainer: StepTrainer, exemplars: Sequence[Exemplar]
) -> Callable[[], None]:
    """A function that saves the state of an unfinished step; all processes call it together."""

    def save() -> None:
        trainer.check_finite()
        state = {**trainer.state_dict(), "memory": to_json(exemplars)}
        rt.on_main(lambda: directory.save_partial(trainer.method.step.index, state))

    return save


@contextmanager
def saved(rt: Runtime, save: Callable[[], None]) -> Iterator[None]:
    """Save the state if a pass is stopped, or if an image fails between two batches.

    A failure is that of one process: the others do not know of it, and where there are several nothing can be saved.
    """
    try:
        yield
    except Stopped:
        save()
        raise
    except Failed:
        if rt.world == 1:
            save()
        raise


@contextmanager
def told(path: Path) -> Iterator[None]:
    """Add to the message of a stop or a failure how to resume; `path` is the run's folder."""
    try:
        yield
    except Stopped as stopped:
        raise Stopped(f"{stopped}; {_next(path)}", stopped.signum) from None
    except Failed as error:
        raise Failed(f"{error}; {_next(path)}") from error


def _next(path: Path) -> str:
    here = RunDirectory(path)  # as this process sees it: one that fails is alone
    if here.finished_steps() or here.has_partial():
        return f"the state is saved in {path}: go on with --resume (resume=True in Python)"
    return "nothing was saved yet: start anew"
