"""Plan of an extension: every error in the request is found, and reported in one line, before training."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from barm.config import merge, parse_override, read_recipe, validate
from barm.data.base import Source
from barm.data.fingerprint import fingerprint
from barm.data.sources import LAYOUTS
from barm.data.sources.named import labelled
from barm.data.sources.tree import find_root
from barm.engine.checkpoint.differences import to_table
from barm.engine.checkpoint.directory import IMAGES, METHOD, RunDirectory
from barm.engine.checkpoint.images import other_measured
from barm.engine.checkpoint.network import load_step
from barm.engine.config import PlaceConfig, RunConfig
from barm.engine.datasets import Data, open_data, open_val
from barm.engine.finite import check_finite
from barm.engine.runtime import Runtime
from barm.errors import UserError
from barm.extension.early import CHANGEABLE, choose_classes, labelled_names
from barm.labels import Step
from barm.methods.base import Method
from barm.models.segmenter import check_names
from barm.reading import real


@dataclass(frozen=True)
class Request:
    """The requested extension; see `barm.extension.run.extend`."""

    run: Path
    data: Path
    classes: Sequence[str] = ()
    val: Sequence[Path] = ()
    step: int | None = None
    recipe: str | None = None
    overrides: Sequence[str] = ()
    seed: int | None = None
    device: str | None = None
    precision: str | None = None
    unlabelled: Path | None = None


@dataclass(frozen=True)
class Known:
    """A run up to the step that is extended.

    Attributes:
        directory: the run.
        step: index of the step that is extended.
        config: its configuration.
        groups: class names per step.
    """

    directory: RunDirectory
    step: int
    config: RunConfig
    groups: tuple[tuple[str, ...], ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """All names in learning order, without background."""
        return tuple(name for group in self.groups for name in group)


def read_known(run: Path, step: int | None) -> Known:
    """Read the run that is extended.

    Raises:
        UserError: if it is no run, or not finished and no `step` says where to extend it.
    """
    directory = RunDirectory(run)
    config, last = directory.config(), directory.last_step()
    record = directory.read(last if step is None else step, METHOD)
    planned = last + 1 if "imported" in directory.provenance() else record.get("num_steps", last + 1)
    if step is None and (last + 1 < planned or directory.has_partial()):
        raise UserError(
            f"{run} is not finished ({last + 1} of {planned} steps are): go on with "
            f"`barm train --out {run} --resume`, or extend what is there with --step {last}"
        )
    names = {c["id"]: c["name"] for c in record["classes"]}
    groups = tuple(tuple(names[i] for i in group) for group in record["groups"])
    return Known(directory, last if step is None else step, config, groups)


def new_place(data: Path, wanted: Sequence[str]) -> tuple[PlaceConfig, tuple[str, ...]]:
    """The new images' place and the classes that they label; see `labelled_names`."""
    layout, found = labelled_names(data, wanted)
    names = () if (find_root(data, LAYOUTS[layout]) / "classes.txt").is_file() or layout != "folder" else tuple(wanted)
    return PlaceConfig(root=real(data), layout=layout, names=names), found


def old_places(request: Request, known: Known, rt: Runtime) -> tuple[list[PlaceConfig], list[str]]:
    """Data sets that label old classes, and notes on them.

    They are those of `--val`, or else those that the run was trained on, if they are still there.
    """
    if request.val:
        places = [PlaceConfig(root=real(path)) for path in request.val]
        for place in places:
            if not labelled(open_val(rt, place, known.classes)):
                raise UserError(f"{place.root} labels none of the classes of {known.directory.path}: leave --val out")
        return places, []
    record, found, notes = known.config.data, list[PlaceConfig](), list[str]()
    own = [PlaceConfig(root=record.root, layout=record.layout, names=record.names)] if record.root is not None else []
    for place in (*own, *record.val):
        try:
            source = open_val(rt, place, known.classes)
        except UserError as error:
            notes.append(f"{place.root}, on which {known.directory.path} was measured, cannot be had ({error})")
            continue
        if labelled(source):
            found.append(PlaceConfig(root=real(place.root), layout=place.layout, names=place.names))
    if found and not notes:
        notes += _changed_since(known, (*own, *record.val), rt)
    return found, notes


def _changed_since(known: Known, places: Sequence[PlaceConfig], rt: Runtime) -> list[str]:
    """Describe as notes what has changed in the data sets since the run was measured on them; empty if nothing has."""
    run, step = known.directory, known.step
    if not run.has(step, IMAGES):
        return []
    now = [fingerprint(open_val(rt, place, known.config.data.classes)) for place in places]
    found = other_measured(run.read(step, IMAGES)["measured"], now)
    told = f"the images on which {run.path} was measured have changed since ({found})"
    return [] if found is None else [told]


def extended_config(
    request: Request, known: Known, place: PlaceConfig, new: Sequence[str], old: Sequence[PlaceConfig]
) -> RunConfig:
    """Configuration of the new run: the old one with one more step, on the new images.

    Raises:
        UserError: for a setting that the run has settled, or a method that cannot go on from it.
    """
    table = to_table(known.config)
    table["data"] = {
        "root": str(place.root),
        "layout": place.layout,
        "names": list(place.names),
        "classes": [*known.classes, *new],
        "val": [p.model_dump(mode="json") for p in old],
        "cache_mb": known.config.data.cache_mb,
    }
    if request.unlabelled is not None:
        table["data"]["unlabelled"] = str(real(request.unlabelled))
    for key in ("crop", "updates"):
        if f"increment.{key}" in known.directory.provenance().get("chosen", {}):
            table["increment"][key] = "auto"
    table["task"] = {"groups": [*(list(g) for g in known.groups), list(new)]}
    if request.recipe is not None:
        recipe = read_recipe(request.recipe)
        table |= {name: recipe[name] for name in ("method", "increment") if name in recipe}
    given = {"device": request.device, "precision": request.precision}
    table["runtime"] |= {key: value for key, value in given.items() if value is not None}
    if request.seed is not None:
        table["seed"] = request.seed
    for text in request.overrides:
        change = parse_override(text)
        if not set(change) <= set(CHANGEABLE):
            raise UserError(
                f"--set {text}: {known.directory.path} has settled [{next(iter(change))}]; an extension may change "
                + ", ".join(CHANGEABLE)
            )
        table = merge(table, change)
    config = validate(table)
    method = config.method.going_on(known.config.method, known.step)
    return config.model_copy(update={"method": method})


def check_alone(config: RunConfig, step: Step, missing: Sequence[str], *, other: str = "") -> None:
    """Refuse a method that needs more than images in which new classes are labelled.

    Args:
        config: of the run.
        step: of the old run.
        missing: old classes that the new images do not label.
        other: a recipe to go on with instead of one that keeps images; by default the same method without.
    """
    method = config.method
    name = method.name
    if method.memory is not None:
        without = other or f"shapes/{name.removesuffix('-m')}"
        raise UserError(
            f"{name} trains on kept old images, which an extension does not have: go on with another method, such as "
            f"--recipe {without}"
        )
    if missing and method.build(step, config.model).policy.supervision != "step":
        raise UserError(
            f"{name} training needs the labels of all classes in the new images, but {config.data.root} does not "
            f"label '{missing[0]}': go on with a method that needs new labels only, such as --recipe folder/barm"
        )


def check_method(config: RunConfig, known: Known, data: Data) -> None:
    """Refuse a method that cannot extend the run with the new images alone."""
    run, method, step = known.directory.path, config.method, data.plan[known.step]
    name, old = method.name, known.config.method
    check_alone(config, step, [n for n in known.classes if data.train.class_names.index(n) not in labelled(data.train)])
    network = config.model.model_copy(update={"pretrained": False, "weights": None})
    if name != old.name and method.extends_any:
        _check_other(method.build(data.plan[known.step + 1], network), known)
        return
    if method.loss != old.loss:
        raise UserError(f"{run} was trained with loss '{old.loss}', {name} has '{method.loss}': choose another recipe")
    expected = method.build(step, network).build_model().state_dict()
    state = known.directory.load_model_state(known.step)
    check_names(expected, state, set(), f"{run} for {name}")
    after = method.build(data.plan[known.step + 1], network)
    if after.carries:
        after.take_over(known.directory.load_carried(known.step))
    check_finite(state, str(known.directory.step_path(known.step)))


def _check_other(method: Method[Any, Any], known: Known) -> None:
    """Refuse a network of another method whose branches this one does not know."""
    name = known.config.method.name
    try:
        method.init_from(method.build_model(), load_step(known.directory, known.step)[0])
    except UserError as error:
        raise UserError(
            f"{known.directory.path} was trained by {name}, whose network {method.config.name} cannot go on with "
            f"({error}): leave --recipe out, or take one of {name}"
        ) from None


def check_images(data: Data, new: Iterable[int], folder: Path) -> list[str]:
    """Refuse a new class that is in no training image; returns notes on new classes that are not measured."""
    notes = []
    for i in new:
        name = data.train.class_names[i]
        if not _show(data.train, i):
            raise UserError(
                f"no training image of {folder} shows '{name}': its masks hold "
                f"{_held(data.train)}; label the class with its id (255 means ignore)"
            )
        if not any(_show(source, i) for source in data.measured):
            notes.append(f"no image that is kept for measuring shows '{name}': it is not measured")
    return notes


def _show(source: Source, class_id: int) -> int:
    """Number of images that show a class."""
    return sum(class_id in source.classes_in(i) for i in range(len(source)))


def _held(source: Source) -> str:
    """List the classes in the masks."""
    ids = set[int]().union(*(source.classes_in(i) for i in range(len(source))))
    return ", ".join(source.class_names[i] for i in sorted(ids)) or "nothing but 0 and 255"


@dataclass(frozen=True)
class Plan:
    """A checked extension.

    Attributes:
        known: the run.
        config: of the new run; a crop that the data decided in the old one is left to the new data.
        data: its images.
        new: names of the new classes.
        notes: remarks for the user.
    """

    known: Known
    config: RunConfig
    data: Data
    new: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def step(self) -> int:
        """Index of the new step."""
        return self.known.step + 1


def make_plan(request: Request) -> tuple[Plan, Runtime]:
    """Check an extension and make its plan.

    Raises:
        UserError: for anything that would make it fail.
    """
    known = read_known(request.run, request.step)
    place, folder = new_place(request.data, request.classes)
    new = choose_classes(request.classes, known.classes, str(request.run), folder, request.data)
    config = extended_config(request, known, place, new, [])
    rt = Runtime(config.runtime)
    old, notes = old_places(request, known, rt)
    config = extended_config(request, known, place, new, [p for p in old if p.root != place.root])
    data = open_data(config, rt)
    check_method(config, known, data)
    notes += check_images(data, data.plan[known.step + 1].new, request.data)
    return Plan(known, config, data, new, tuple(notes)), rt
