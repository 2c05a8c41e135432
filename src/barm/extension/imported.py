"""A network of another library as the start of an extension: it becomes a run of one step first."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from barm.config import read_recipe
from barm.engine.checkpoint.directory import CONFIG, RunDirectory
from barm.engine.distributed.launcher import processes
from barm.engine.runtime import Runtime
from barm.errors import UserError
from barm.extension.plan import Plan, Request, make_plan
from barm.methods import METHODS
from barm.weights.adoption import RECIPE, ImportedModel
from barm.weights.foreign.model import Activation
from barm.weights.hub import SCHEME, is_address
from barm.weights.importing import check_model, import_model
from barm.weights.recognise import recognise


@dataclass(frozen=True)
class ModelOptions:
    """What the files of a network of another library may not say; see `barm.weights.importing.import_model`.

    Attributes:
        class_names: names of its classes in the outputs' order, or a file with one per line.
        background: name of the background among them, or ``none``.
        activation: that turns its logits into probabilities.
        images: a folder of images like those it is used on, for its calibration; by default those of the new classes.
    """

    class_names: Path | str | Sequence[str] | None = None
    background: str | None = None
    activation: Activation | None = None
    images: Path | str | None = None


def is_model(path: Path | str) -> bool:
    """Whether a path is no run and no folder of runs, but weights of whatever kind."""
    return is_address(path) or recognise(Path(path)).family not in ("run", "folder", "missing")


def start_of(model: Path | str, target: Path | None, new: Sequence[str]) -> tuple[Path, Path]:
    """Folders of the run that a network becomes, and of its extension."""
    name = SCHEME.sub("", str(model)).partition("@")[0].rpartition("/")[2] if is_address(model) else Path(model).stem
    parent = Path() if is_address(model) else Path(model).parent
    out = target or parent / f"{name}+{'+'.join(new)}".replace("/", "-")[:100]
    return out.with_name(f"{out.name}-base"), out


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
    recipe, given = _first(request)
    own = [text for text in request.overrides if not text.startswith("model.")]
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
        plan, rt = make_plan(replace(request, run=base, overrides=own))
    except BaseException:
        if not out.exists():
            shutil.rmtree(base, ignore_errors=True)
        raise
    return plan, rt, out
