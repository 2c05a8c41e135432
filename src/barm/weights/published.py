"""Import and export official checkpoints.

The official format is a pickled dict with ``model_state``, ``optimizer_state`` and ``best_score``; tensor names are
those of our networks (spec/barm.md section 2), so conversion is checking. Pickles are loaded with ``weights_only``.
"""

from __future__ import annotations

from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from barm.data.palette import published
from barm.engine.checkpoint.directory import RunDirectory
from barm.engine.checkpoint.network import describe_classes, load_step
from barm.engine.config import RunConfig
from barm.errors import UserError
from barm.labels import TaskPlan
from barm.models.segmenter import MODELS, check_names
from barm.reading import Unfit, read_pickled, state_dict_of
from barm.weights.analytic import TRAINED, find_regression, named_as_here
from barm.weights.checkpoints import state_in
from barm.weights.kind import State
from barm.weights.networks import unwrapped
from barm.weights.official import Origin, settle
from barm.weights.published_names import own_names
from barm.weights.recognise import recognise
from barm.writing import save_pickled


def file_name(model: str, dataset: str, task: str, step: int, setting: str) -> str:
    """Name of an official checkpoint."""
    return f"{model}_{dataset}_{task}_step_{step}_{setting}.pth"


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Read the tensors of an official checkpoint.

    Raises:
        UserError: if it is no readable checkpoint with a ``model_state``.
    """
    if not path.is_file():
        raise UserError(f"no checkpoint {path}: give an official .pth file")
    try:
        content = read_pickled(path, _numpy_scalars())  # best_score is a numpy scalar in the official files
    except Unfit as error:
        raise UserError(
            f"{path} is not a readable checkpoint ({error.what}); expected a .pth that holds tensors and plain values "
            "only"
        ) from error
    table = content if isinstance(content, dict) else {}
    keys, shapes = state_in(table, lambda value: tuple(value.shape) if isinstance(value, Tensor) else None)
    if shapes is None:
        raise UserError(f"{path} has no 'model_state': expected an official checkpoint")
    state: Any = reduce(getitem, keys, table)
    return {name.removeprefix("module."): tensor for name, tensor in state_dict_of(state, path).items()}


def _numpy_scalars() -> list[Any]:
    """Types of which a pickled numpy scalar consists, under the names of old and new numpy."""
    from numpy.dtypes import Float32DType, Float64DType

    scalar = np.float64(0).__reduce__()[0]
    names = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
    return [*((scalar, name) for name in names), np.dtype, Float32DType, Float64DType]


def import_checkpoint(
    path: Path, out: Path, *, config: RunConfig, plan: TaskPlan, step: int, class_names: tuple[str, ...], palette: Any
) -> None:
    """Write an official checkpoint as a finished step of a run.

    Args:
        path: the ``.pth``.
        out: the run's folder, new or with earlier steps.
        config: of the run.
        plan: of its task.
        step: the step that the checkpoint was saved after.
        class_names: by dataset id.
        palette: colour per dataset id.

    Raises:
        UserError: for a tensor that is missing, extra or of the wrong shape; nothing is written then.
    """
    method = config.method.build(plan[step], config.model.model_copy(update={"pretrained": False}))
    own = method.build_model().state_dict()
    given = read_checkpoint(path)
    shapes = State({name: tuple(value.shape) for name, value in given.items()})
    found = find_regression(shapes, [prefix for prefix, _ in unwrapped(shapes)])
    state = own_names(given, own) if found is None else named_as_here(given, found)
    fresh = {name for name in own if name.endswith("num_batches_tracked")} | ({*TRAINED} if found else set())
    check_names(own, state, fresh, str(path))
    directory = RunDirectory(out)
    try:
        directory.open(config, {"imported": str(path)}, resume=out.exists())
        if directory.is_complete(step):
            raise UserError(f"{out} has step {step} already: choose another --out")
        record = describe_classes(config, plan, plan[step], class_names, palette)
        directory.save_step(step, {**own, **state}, record, None, None)
    finally:
        directory.close()


def import_published(
    path: Path | str,
    out: Path | str,
    *,
    dataset: str | None = None,
    task: str | None = None,
    step: int | None = None,
    model: str | None = None,
    method: str | None = None,
) -> Origin:
    """`import_checkpoint` with the published classes, for BARM, SSUL, or a DeepLab with one classifier.

    Args:
        path: the ``.pth``.
        out: the run's folder, new or with earlier steps.
        dataset: ``voc`` or ``ade``; what is not given here and below is read off the file.
        task: as in a recipe's name.
        step: the step that it was saved after.
        model: published name of the network.
        method: of barm.

    Returns:
        What it was imported as.

    Raises:
        UserError: for a file of another kind, or one that contradicts what is given; nothing is written then.
    """
    from barm.config import load_config

    if model is not None and model not in MODELS:
        raise UserError(f"unknown model '{model}'; known: {', '.join(MODELS)}")
    path = Path(path)
    kind = recognise(path)
    origin = settle(kind, path, dataset=dataset, task=task, step=step, model=model, method=method)
    names, palette = published(origin.dataset)
    record = {**MODELS[origin.model], "pretrained": False}
    recipe = f"{origin.dataset}/{origin.task}/{origin.method}"
    config = load_config(recipe, kind.settings if origin.method == kind.method else (), {"model": record})
    plan, step = config.task.plan(names, config.seed), origin.step
    import_checkpoint(path, Path(out), config=config, plan=plan, step=step, class_names=names, palette=palette)
    return origin


def export_checkpoint(run: Path | str, target: Path | str, *, step: int | None = None) -> None:
    """Write a finished step in the official format.

    Args:
        run: the run's folder.
        target: the ``.pth``; written to a temporary file and renamed.
        step: which step; the last by default.
    """
    directory = RunDirectory(Path(run))
    index = directory.last_step() if step is None else step
    model, _ = load_step(directory, index)
    miou = 0.0
    metrics = directory.step_path(index) / "metrics.json"
    if metrics.is_file():
        miou = float(directory.read(index, "metrics.json")["miou"]["all"] or 0)  # none: not all classes were measured
    save_checkpoint(Path(target), dict(model.state_dict()), miou)


def save_checkpoint(target: Path, state: dict[str, Tensor], best_score: float) -> None:
    """Write tensors in the official format, atomically."""
    target.parent.mkdir(parents=True, exist_ok=True)
    save_pickled(target, {"model_state": state, "optimizer_state": {}, "best_score": best_score})
