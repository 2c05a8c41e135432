"""A network of another library as the start of an extension: it becomes a run of one step first."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from barm.config import load_config, read_recipe
from barm.engine.checkpoint.directory import CONFIG, RunDirectory
from barm.engine.distributed.launcher import processes
from barm.engine.runtime import Runtime
from barm.errors import UserError
from barm.extension.early import ModelOptions, labelled_names, old_names, start_of
from barm.extension.plan import Plan, Request, check_alone, make_plan
from barm.methods import METHODS
from barm.weights.adoption import RECIPE, ImportedModel
from barm.weights.hub import is_address
from barm.weights.importing import check_model, import_model
from barm.weights.recognise import recognise


def is_model(path: Path | str) -> bool:
    """Whether a path is no run; `barm.weights.recognise` says what else it is."""
    return is_address(path) or recognise(Path(path)).family != "run"


def taken_lines(taken: ImportedModel, options: ModelOptions) -> list[str]:
    """What became of the options, and of the network's folder, for the terminal."""
    adopted = taken.config.model.adopted
    architecture = {} if adopted is None else adopted.description
    sigmoid = "sigmoid" in (options.activation, architecture.get("activation"))
    lines = [f"  {taken.run} is the network as a run of one step; once the extension is finished it may be removed"]
    if options.images is not None and taken.calibration is None:
        lines.append(f"  no calibration is needed, its scores are taken as they are: {options.images} is not looked at")
    if sigmoid and taken.classes.background == "row":
        lines.append(
            "  a pixel is background where that output is the largest; that no class reaches one half does not matter"
        )
    return lines


def _first(request: Request) -> tuple[str, list[str]]:
    """Recipe and settings of the step that the network becomes.

    They are those of the extension, unless that goes on from any method's network and replaces the classifier.
    """
    recipe, overrides = request.recipe or RECIPE, list(request.overrides)
    method = METHODS.get(str(read_recipe(recipe).get("method", {}).get("name")))
    if method is None or not method.extends_any:
        return recipe, overrides
    return RECIPE, [text for text in overrides if not text.startswith("method.")]


def make_imported_plan(
    model: Path | str,
    request: Request,
    options: ModelOptions,
    target: Path | None,
    *,
    resume: bool,
    announce: Callable[[ImportedModel], None],
) -> tuple[Plan, Runtime, Path]:
    """Import a network beside `target`, and plan the extension of the run that it becomes.

    Args:
        model: the network's folder, file or address.
        request: of the extension; its run is replaced.
        options: about the network.
        target: folder of the extension; by default named after the network and the new classes.
        resume: the network was imported before.
        announce: called with the imported network.

    Raises:
        UserError: as `import_model` and `make_plan`; the imported run is removed then.
    """
    if not is_address(model):
        check_model(Path(model))
    if processes() != (1, 1):
        raise UserError(
            f"{model} has to become a run before several processes extend it: barm weights import {model} --out RUN"
        )
    if target is None and not request.classes:
        raise UserError("give the new classes with --classes, or the new run's folder with --out")
    base, out = start_of(model, target, request.classes)
    RunDirectory(out).check_place(resume=resume)
    _check_recipe(model, request, options)
    recipe, given = _first(request)
    if not (resume and (base / CONFIG).is_file()):
        taken = import_model(
            model,
            base,
            class_names=options.class_names,
            background=options.background,
            activation=options.activation,
            images=options.images or request.data,
            recipe=recipe,
            overrides=given,
        )
        announce(taken)
    try:
        own = [text for text in request.overrides if not text.startswith("model.")]
        plan, rt = make_plan(replace(request, run=base, overrides=own))
    except BaseException:
        if not out.exists():
            shutil.rmtree(base, ignore_errors=True)
        raise
    return plan, rt, out


def _check_recipe(model: Path | str, request: Request, options: ModelOptions) -> None:
    """Refuse settings that are wrong, and a method that new images are not enough for, before the network is read."""
    table = {"task": {"groups": [["old"], ["new"]], "name": None}, "data": {"root": str(request.data)}}
    config = load_config(request.recipe or RECIPE, request.overrides, table)
    known = [] if is_address(model) else old_names(Path(model), options) or ()
    _, found = labelled_names(request.data, request.classes)
    missing = [name for name in known if name not in found]
    check_alone(config, config.task.plan(("background", "old", "new"), 0)[0], missing, other=RECIPE)
