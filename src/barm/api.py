"""The Python interface: `fit`, `evaluate`, `compare`. The command line calls the same functions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from barm.config import load_config, merge, parse_override, validate
from barm.data.base import Source
from barm.engine.capacity import check_evaluation
from barm.engine.checkpoint.differences import difference, settings, to_table
from barm.engine.checkpoint.directory import RunDirectory
from barm.engine.checkpoint.network import load_step
from barm.engine.checkpoint.shared import SharedDirectory
from barm.engine.config import RunConfig
from barm.engine.crops import sized
from barm.engine.datasets import Data, open_data
from barm.engine.details import details as step_details
from barm.engine.evaluate import evaluate_step, label_agreement
from barm.engine.monitor import Monitor
from barm.engine.run import run
from barm.engine.runtime import Runtime, constant_type
from barm.engine.scores import scores_of
from barm.errors import UserError
from barm.escaping import markup
from barm.report.compare import Row, summarise, write_comparison
from barm.report.results import read_results
from barm.weights.recognise import check_usable

Where = Path | str | tuple[Source, Source]  # a folder, or the training and the validation source


def read_config(path: Path | str) -> RunConfig:
    """The configuration that a run was trained with."""
    check_usable(path)
    return RunDirectory(Path(path)).config()


def fit(
    recipe: str | Path | RunConfig,
    *,
    out: Path | str,
    data: Where | None = None,
    overrides: Sequence[str] = (),
    resume: bool = False,
    steps: Sequence[int] | None = None,
    start_from: Path | str | None = None,
    quiet: bool = False,
) -> list[dict[str, Any]]:
    """Train and evaluate the steps of a task.

    Args:
        recipe: a recipe's name or file, or a whole configuration.
        out: the run's folder.
        data: the data set, unless the configuration says it: its folder, or the training and the validation source.
        overrides: ``table.key=value``.
        resume: go on with what is in `out`.
        steps: only these.
        start_from: another run whose step 0 is taken over.
        quiet: show nothing.

    Returns:
        The metrics of every finished step.
    """
    config = recipe if isinstance(recipe, RunConfig) else load_config(recipe, overrides)
    config, sources = _where(config, data)
    rt = Runtime(config.runtime)
    with Monitor(rt.is_main, quiet=quiet, tensorboard=config.runtime.tensorboard) as monitor:
        return run(
            config,
            rt,
            Path(out),
            monitor,
            resume=resume,
            only=steps,
            start_from=None if start_from is None else Path(start_from),
            data=sources,
        )


def evaluate(
    path: Path | str,
    step: int | None = None,
    data: Where | None = None,
    *,
    overrides: Sequence[str] = (),
    native: bool = False,
    details: bool = False,
    device: str | None = None,
    precision: str | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Evaluate a run's step anew on the validation split.

    Args:
        path: the run's folder.
        step: which step; the last by default.
        data: another data set with the same classes, as in `fit`.
        overrides: ``evaluation.key=value``; by default it is evaluated as the run was.
        native: at native size, as `Model.predict` sees an image; short for ``evaluation.crop=0``.
        details: measure the images a second time, for scores at borders, confused classes and calibration.
        device: overrides the device of the run.
        precision: overrides the precision of the run.
        quiet: show no progress.

    Returns:
        Metrics as in ``metrics.json``; average mIoU and forgetting use the stored counts of the earlier steps, and are
        None where those were measured on other images or in another way. With a `precision` also the ``computed_in``
        type of the weights, and the ``agreement``: the share of the pixels that have the label of float32. With
        `details` also ``details``, as `barm.engine.details.details` returns them.

    Raises:
        UserError: for an override of anything but the evaluation.
    """
    trained = read_config(path)
    config, sources = _where(evaluated_as(trained, overrides, native=native), data)
    shared = {} if data is None else {"allow_shared": True}  # nothing was trained on its training split
    read = config.data.model_copy(update={"unlabelled": None, **shared})
    config = config.model_copy(update={"data": read})
    rt = Runtime(config.runtime.changed(device=device, precision=precision))
    directory = SharedDirectory(Path(path), rt)
    index = directory.last_step() if step is None else step
    opened = sources or open_data(config, rt)
    check_evaluation(config, rt, opened.measured)
    network, method = load_step(directory, index, opened.plan, opened.val.class_names)
    with Monitor(rt.is_main, quiet=quiet) as monitor:
        for line in sized(config, opened, ()).warnings:
            monitor.say(f"[yellow]warning:[/yellow] {markup(line)}")
        counts = evaluate_step(config, rt, method, network, opened, method.step, monitor)
        told: dict[str, Any] = {}
        if precision is not None:
            agreement = label_agreement(config, rt, method, network, opened, monitor)
            kind = str(constant_type(rt.precision, rt.device)).removeprefix("torch.")
            told = {"computed_in": kind, "agreement": agreement}
        if details:
            told["details"] = step_details(config, rt, method, network, opened, monitor)
    views = (settings(c, ("evaluation",)) | {"evaluation.absent": None} for c in (trained, config))
    scores = scores_of(
        directory,
        method.step,
        counts,
        opened,
        absent=config.evaluation.absent,
        others=data is not None,
        same_view=difference(*views) is None,
    )
    return scores | told


def view_of(path: Path | str, overrides: Sequence[str] = (), *, native: bool = False) -> str:
    """Describe in words how `evaluate` sees the images with these arguments."""
    return evaluated_as(read_config(path), overrides, native=native).evaluation.view


def evaluated_as(config: RunConfig, overrides: Sequence[str], *, native: bool = False) -> RunConfig:
    """A run's configuration with another evaluation.

    Raises:
        UserError: for an override of anything else.
    """
    changes = [*overrides, *(["evaluation.crop=0"] if native else [])]
    table = to_table(config)
    for text in changes:
        change = parse_override(text)
        if set(change) != {"evaluation"}:
            raise UserError(f"--set {text}: a run is evaluated as it was trained; only evaluation.* may be set here")
        table = merge(table, change)
    return validate(table) if changes else config


def compare(runs: Sequence[Path | str], out: Path | str | None = None) -> list[Row]:
    """Compare runs after their last step.

    Args:
        runs: folders of finished runs.
        out: folder for ``compare.csv``, ``.json``, ``.md``, ``.tex`` and ``.png``; nothing is written by default.

    Returns:
        Mean and standard deviation (n - 1) of every score per task and method, over its repetitions.
    """
    results = read_results([Path(run) for run in runs])
    if out is not None:
        write_comparison(Path(out), results)
    return summarise(results)


def _where(config: RunConfig, data: Where | None) -> tuple[RunConfig, Data | None]:
    """Put a folder into the configuration, or make the data from two sources."""
    if data is None:
        return config, None
    if isinstance(data, tuple):
        train, val = data
        return config, Data(train, val, config.task.plan(tuple(train.class_names), config.seed))
    return config.model_copy(update={"data": config.data.model_copy(update={"root": Path(data)})}), None
