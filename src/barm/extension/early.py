"""What can be refused of an extension before torch is loaded: places, files, names. It takes tenths of a second."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from barm.catalogue import recipe_names, recipes_folder
from barm.data.sources import LAYOUTS, detect_layout, open_source
from barm.data.sources.tree import find_root
from barm.data.text import read_lines
from barm.engine.checkpoint.place import check_place
from barm.engine.distributed.launcher import processes
from barm.errors import UserError, nearest
from barm.escaping import normal
from barm.reading import Unfit, read_json, real
from barm.weights.hub import SCHEME, is_address
from barm.weights.kind import FAMILIES, Kind
from barm.weights.output_classes import Activation, classes_of
from barm.weights.recognise import recognise
from barm.words import count, natural

CHANGEABLE = ("increment", "method", "evaluation", "runtime")  # tables; the rest is settled by the run
VOC_OUTPUTS = 21  # of torchvision's networks, whose names are known then


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


def check_early(
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
    resume: bool = False,
) -> None:
    """Refuse what is wrong with an extension, as far as names and places tell. Arguments as of `extend`.

    Raises:
        UserError: for places that exist or do not, files of another kind, unknown recipes and class names.
    """
    options, alone = model or ModelOptions(), processes() == (1, 1)  # others may see no such folder
    if out is not None and alone:
        check_place(Path(out), resume=resume)
    kind = None if is_address(run) else recognise(run)
    if kind is not None and kind.family not in ("run", *FAMILIES):
        raise UserError(kind.line(run))
    foreign = kind is None or kind.family in FAMILIES
    if not foreign and options != ModelOptions():
        raise UserError(
            f"{run} is no network of another library, which alone takes --class-names, --background, --activation and "
            "--calibrate: leave them out"
        )
    _check_recipe(recipe)
    _check_settings(run, overrides, step, foreign=foreign)
    for place in val:
        if not Path(place).is_dir():
            raise UserError(f"no folder {place}: expected a data set there; check --val")
    if foreign and options.images is not None and not Path(options.images).is_dir():
        raise UserError(f"no folder {options.images}: give a folder of images to --calibrate")
    names = _names_of(Path(run), kind, options) if kind is not None and foreign else _learned(Path(run), step)
    _, found = labelled_names(Path(data), classes)
    new = classes if names is None else choose_classes(classes, names, str(run), found, Path(data))
    if alone and foreign and (out is not None or new):
        base, target = start_of(run, None if out is None else Path(out), new)
        check_place(target, resume=resume)
        if not resume:
            check_place(base, resume=False)


def start_of(model: Path | str, target: Path | None, new: Sequence[str]) -> tuple[Path, Path]:
    """Folders of the run that a network becomes, and of its extension."""
    name = SCHEME.sub("", str(model)).partition("@")[0].rpartition("/")[2] if is_address(model) else Path(model).stem
    parent = Path() if is_address(model) else Path(model).parent
    out = target or parent / f"{name}+{'+'.join(new)}".replace("/", "-")[:100]
    return out.with_name(f"{out.name}-base"), out


def default_out(path: Path, new: Sequence[str]) -> Path:
    """Default folder of a run's extension: beside the run, named after the new classes."""
    whole = path if path.name not in ("", "..") else real(path)  # "." has no name
    return whole.with_name(f"{whole.name}+{'+'.join(new)}".replace("/", "-")[:100])


def labelled_names(data: Path, wanted: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """Layout of the new images, and the classes that they label without background.

    A plain folder without ``classes.txt`` has the wanted classes as its mask values 1, 2, ....
    """
    layout = detect_layout(data)
    names = tuple(wanted) if _unnamed(layout, data) else ()
    if _unnamed(layout, data) and not wanted:
        raise UserError(
            f"{data} has no classes.txt: write one, or name the classes of the mask values 1, 2, ... with --classes"
        )
    return layout, open_source(layout, data, "train", names).class_names[1:]


def _unnamed(layout: str, data: Path) -> bool:
    return layout == "folder" and not (find_root(data, LAYOUTS["folder"]) / "classes.txt").is_file()


def choose_classes(
    wanted: Sequence[str], known: Sequence[str], run: str, folder: Sequence[str], data: Path
) -> tuple[str, ...]:
    """Choose the new classes: the requested ones, or all classes of the folder that the run does not know.

    Args:
        wanted: names; none for all.
        known: names that the run knows.
        run: the run or network, for error messages.
        folder: names that the data set labels, without background.
        data: the data set's folder, for error messages.

    Raises:
        UserError: for a class that is known already, is not in the folder or stands there twice, or if none is left.
    """
    chosen = tuple(wanted) or tuple(name for name in folder if name not in known)
    if not chosen:
        raise UserError(f"{run} knows every class of {data} already ({', '.join(folder)}): nothing is new")
    for i, name in enumerate(chosen):
        if name in known or name == "background":
            new = [n for n in folder if n not in known]
            raise UserError(
                f"{run} knows '{name}' already: give new classes to --classes"
                + (f"; new in {data}: {', '.join(new[:8])}" if new else "")
            )
        if name not in folder:
            known_to = f"; it labels {', '.join(folder[:8])}" + (" ..." if len(folder) > 8 else "")
            raise UserError(f"{data} has no class '{name}'{nearest(name, folder) or known_to}")
        if name in chosen[:i]:
            raise UserError(f"class '{name}' is given twice to --classes: name each once")
    return chosen


def _check_settings(run: Path | str, overrides: Sequence[str], step: int | None, *, foreign: bool) -> None:
    allowed = (*CHANGEABLE, "model") if foreign else CHANGEABLE
    for text in overrides:
        if "=" not in text:
            raise UserError(f"--set expects table.key=value, got '{text}'")
        table = text.partition("=")[0].partition(".")[0].strip()
        if table not in allowed:
            raise UserError(
                f"--set {text}: {run} has settled [{table}]; an extension may change {', '.join(CHANGEABLE)}"
            )
    if foreign and step not in (None, 0):
        raise UserError(f"{run} is a network without steps, asked for step {step}: leave --step out")


def _check_recipe(recipe: str | None) -> None:
    if recipe is None:
        return
    parts = recipe.split("/")
    if recipe.endswith(".toml"):
        if not Path(recipe).is_file():
            raise UserError(f"no recipe file {recipe}: give an existing .toml, or a name that `barm recipes` lists")
    elif len(parts) not in (2, 3) or not recipes_folder().joinpath(f"{parts[0]}/{parts[-1]}.toml").is_file():
        hint = nearest(recipe, recipe_names()) or "; `barm recipes` lists them"
        raise UserError(f"unknown recipe '{recipe}': expected <data>/<task>/<method> or a .toml file{hint}")


def old_names(path: Path, options: ModelOptions) -> tuple[str, ...] | None:
    """Names of the classes of a network of another library without background; None where only its tensors tell."""
    return _names_of(path, recognise(path), options)


def _names_of(path: Path, kind: Kind, options: ModelOptions) -> tuple[str, ...] | None:
    """Names of a network's classes, checked against its outputs; None where only its tensors would tell."""
    given = options.class_names
    own = read_lines(Path(given)) if isinstance(given, str | Path) else given
    names = _in_files(path, kind) if own is None else tuple(map(normal, own))
    outputs = kind.outputs
    if outputs is None or (names is None and (outputs == 1 or (kind.family, outputs) == ("torchvision", VOC_OUTPUTS))):
        return None
    if names is None:
        raise UserError(
            f"{path} has {count(outputs, 'outputs')}, but its files do not name them: give the names of its classes in "
            "the outputs' order with --class-names FILE, one per line"
        )
    activation = options.activation or "softmax"
    return classes_of(outputs, names, options.background, activation, str(path)).names[1:]


def _in_files(path: Path, kind: Kind) -> tuple[str, ...] | None:
    """Names of a network's outputs as its folder says them."""
    if kind.family == "smp" and (path / "classes.txt").is_file():
        return tuple(map(normal, read_lines(path / "classes.txt")))
    if kind.family != "transformers":
        return None
    labels: Any = _json(path / "config.json").get("id2label")
    if not isinstance(labels, dict):
        return None
    numbers = sorted((n, str(v)) for k, v in labels.items() if (n := natural(str(k))) is not None)
    names = tuple(normal(name) for _, name in numbers)
    return None if not names or names == tuple(f"LABEL_{i}" for i, _ in numbers) else names


def _learned(run: Path, step: int | None) -> tuple[str, ...] | None:
    """Names of the classes that a run knows; None if its files do not say it, which is told later."""
    steps = {int(p.name[4:]): p for p in run.glob("step*") if re.fullmatch(r"step\d{2,}", p.name)}
    index = max(steps, default=0) if step is None else step
    classes: Any = _json(steps[index] / "method.json").get("classes") if index in steps else None
    try:
        return tuple(str(c["name"]) for c in classes[1:])
    except (TypeError, KeyError, IndexError):
        return None


def _json(path: Path) -> dict[str, Any]:
    try:
        found = read_json(path)
    except (OSError, Unfit):
        return {}
    return found if isinstance(found, dict) else {}
