"""A grid of runs: methods x tasks x settings x class orders x seeds. Only missing runs are trained."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from barm.api import fit
from barm.config import load_config, merge
from barm.data.sources.shapes_disk import make_shapes
from barm.engine.checkpoint.differences import agreeing, difference, settings
from barm.engine.checkpoint.directory import IMAGES, RunDirectory
from barm.engine.checkpoint.images import images_of, other_images
from barm.engine.config import RunConfig, RuntimeConfig
from barm.engine.datasets import Data, open_data
from barm.engine.runtime import Runtime
from barm.errors import Stopped, UserError
from barm.escaping import placeless
from barm.grid_file import Cell, GridConfig, alike, cells
from barm.reading import read_json
from barm.report.results import COMPARED, Result, digest_of_images, read_result, task_name
from barm.writing import write_atomically

FIRST = "step00"  # in a run's folder, of its first step
FILES = ("data.class_list", "data.unlabelled", "model.weights")  # settings that are a place on a machine


def without_known(
    grid: GridConfig, known: Sequence[Result], out: Path | str, data: Path | str | None = None
) -> GridConfig:
    """The grid without the runs whose results are known: same task, seed, settings and images, on whatever machine.

    Args:
        grid: the runs.
        known: results, such as those of a stored ``compare.json``.
        out: folder for the runs, and for generated data.
        data: the data set's folder, unless the grid generates one.

    Raises:
        UserError: for a result of other images, with which the grid's cannot be compared.
    """
    done, here = list[str](), ""
    for cell in cells(grid):
        found = [result for result in known if _is_of(result, grid, cell)]
        if found and not here:
            root = data_root(grid, Path(out), None if data is None else Path(data))
            config = config_of(grid, cell, root)
            here = digest_of_images(images_of(_opened(config)))
        other = next((result for result in found if result.images != here), None)
        if other is not None:
            raise UserError(
                f"{other.path} was trained or measured on other images than those of the grid: leave it out, or choose "
                "its --data"
            )
        done += [cell.name()] if found else []
    return grid.model_copy(update={"skip": (*grid.skip, *done)})


def check_settings(grid: GridConfig, out: Path, *, gpus: bool) -> None:
    """Refuse a grid in which the settings of a run are wrong, before anything is written.

    Args:
        grid: the runs.
        out: folder for the runs.
        gpus: whether a run has a GPU.

    Raises:
        UserError: with the name of the first such run.
    """
    for cell in cells(grid):
        with _named(cell):
            runtime = config_of(grid, cell, out).runtime
        key = "device" if runtime.device == "cuda" else "precision" if runtime.precision == "16-mixed" else ""
        if key and not gpus:
            value = getattr(runtime, key)
            raise UserError(f"{cell.name()}: runtime.{key}={value} needs a GPU, but --gpus is 0: leave one of them out")


def check_data(grid: GridConfig, out: Path, root: Path) -> None:
    """Open the data of every run that is not finished, each once, and see whether its task fits the classes.

    Args:
        grid: the runs.
        out: folder for the runs.
        root: the data set's folder.

    Raises:
        UserError: with the name of the first run that cannot begin.
    """
    opened = dict[tuple[str, frozenset[str]], Data]()
    for cell in cells(grid):
        if is_finished(out / cell.name()):
            continue
        config = config_of(grid, cell, root)
        key = (config.data.model_dump_json(), config.method.maps)
        with _named(cell):
            opened[key] = opened.get(key) or _opened(config)
            config.task.plan(tuple(opened[key].train.class_names), config.seed)


@contextmanager
def _named(cell: Cell) -> Iterator[None]:
    """Context in which an error says of which run it is."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{cell.name()}: {error}") from None


def _opened(config: RunConfig) -> Data:
    """The images of a run, opened on a machine that need not have the devices of those that train."""
    return open_data(config, Runtime(RuntimeConfig(device="cpu", precision="32-true")))


def _is_of(result: Result, grid: GridConfig, cell: Cell) -> bool:
    """Whether a result is that of a run of the grid. Files of settings count by their names, without their folders."""
    if (result.seed, result.order) != (cell.seed, cell.order):
        return False
    try:
        config = config_of(grid, cell, Path())
    except UserError:  # said when it is its turn
        return False
    theirs, ours = _by_names(result.settings), _by_names(settings(config, COMPARED))
    return result.task == task_name(config) and difference(theirs, agreeing(theirs, ours)) is None


def _by_names(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Settings in which files have their names alone, whatever folder they were given from."""
    return {key: Path(value).name if key in FILES and value else placeless(value) for key, value in flat.items()}


def run_grid(
    grid: GridConfig, out: Path | str, data: Path | str | None, say: Callable[[str], None], *, quiet: bool = False
) -> tuple[list[Path], list[str]]:
    """Train the missing runs. A run that fails is reported and left out.

    Args:
        grid: the runs.
        out: folder for the runs, and for generated data.
        data: the data set's folder, unless the grid generates one.
        say: called with a line on every run.
        quiet: no progress bars.

    Returns:
        The folders of the finished runs, and a line for every failed one.
    """
    out, data, todo = Path(out), None if data is None else Path(data), cells(grid)
    if not todo:
        return [], []
    root = data_root(grid, out, data)
    places = {cell: f"[{number}/{len(todo)}] {cell.name()}" for number, cell in enumerate(todo, start=1)}

    def train(cell: Cell) -> None:
        say(places[cell])
        train_cell(grid, cell, out, root, quiet=quiet)

    return each_run(grid, out, root, train, say, generated=data is None)


def each_run(
    grid: GridConfig,
    out: Path,
    root: Path,
    train: Callable[[Cell], None],
    say: Callable[[str], None],
    *,
    generated: bool,
) -> tuple[list[Path], list[str]]:
    """Check the finished runs of a grid, and have the others trained. A run that fails is reported and left out.

    Args:
        grid: the runs.
        out: their folder.
        root: the data set's.
        train: called with every run that is not finished; raises if it stays so.
        say: called with a line on every failure.
        generated: whether the grid's own data are used; otherwise a finished run must have been trained in `root`.

    Returns:
        The folders of the finished runs, and a line for every failed one.
    """
    finished, failed = list[Path](), list[str]()
    for cell in cells(grid):
        path = out / cell.name()
        try:
            config = config_of(grid, cell, root)
            if is_finished(path):
                _check_same(path, config, generated=generated)
            else:
                train(cell)
            if finished:
                _check_images(path, finished[0])
            finished.append(path)
        except (Stopped, KeyboardInterrupt):
            raise
        except Exception as error:  # one failed run does not lose the others
            kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
            failed.append(f"{cell.name()}: {kind}{error}")
            say(f"failed: {failed[-1]}")
    return finished, failed


def train_cell(grid: GridConfig, cell: Cell, out: Path, root: Path, *, quiet: bool = False) -> None:
    """Train one run of a grid, or go on with it; its step 0 is taken over where another run has the same."""
    path = out / cell.name()
    there = (out / cell.name(name) for name in alike(grid, cell.method))
    start = next((other for other in there if (other / FIRST).is_dir()), None)
    fit(config_of(grid, cell, root), out=path, resume=path.exists(), start_from=start, quiet=quiet)


def config_of(grid: GridConfig, cell: Cell, root: Path) -> RunConfig:
    """The whole configuration of a run."""
    updates: dict[str, Any] = {
        "seed": cell.seed,
        "data": {"root": str(root)},
        "task": {"name": cell.task, "setting": cell.setting, "order": cell.order},
    }
    variant = grid.variants.get(cell.method)
    name, more = (cell.method, ()) if variant is None else (variant.recipe, variant.overrides)
    return load_config(f"{grid.recipes}/{cell.task}/{name}", (*grid.overrides, *more), merge({}, updates))


def _check_same(path: Path, config: RunConfig, *, generated: bool) -> None:
    """Refuse a finished run that is not the one that the grid asks for. Generated data is compared by itself."""
    stored = RunDirectory(path).config()
    theirs = settings(stored)
    found = difference(theirs, agreeing(theirs, settings(config)))
    what = found[1] if found else f"data.root is {stored.data.root} there, {config.data.root} here"
    if found or not (generated or stored.data.root == config.data.root):
        raise UserError(f"{path} was trained with other settings ({what}): choose another --out, or remove it")


def _check_images(path: Path, first: Path) -> None:
    """Refuse a run that was trained or measured on other images than the first run: their scores are not comparable."""
    runs = [RunDirectory(p) for p in (first, path)]
    if not all(run.has(0, IMAGES) for run in runs):  # of a version that kept no record
        return
    there, here = (run.read(0, IMAGES) for run in runs)
    found = other_images(there, here)
    if found is not None:
        raise UserError(
            f"{path} was trained on other images than {first} ({found}): remove the older, and train it anew"
        )


def is_finished(path: Path) -> bool:
    """Whether all steps of the run are trained and evaluated."""
    try:
        read_result(path)
    except UserError:
        return False
    return True


def data_root(grid: GridConfig, out: Path, data: Path | None) -> Path:
    """The folder of the data set: the given one, or the grid's own data, which are made if they are missing.

    Raises:
        UserError: if there is neither, or other data were made in `out`.
    """
    if data is not None:
        return data.resolve()
    if grid.shapes is None:
        raise UserError("no data set: pass --data DIR, or give the grid a [shapes] table")
    made, s = out / "data", grid.shapes
    record, wanted = out / "data.json", grid.shapes.model_dump(mode="json")
    if made.exists():
        _check_generated(made, record, wanted)
    else:
        make_shapes(
            made,
            layout=s.layout,
            num_classes=s.classes,
            num_train=s.train,
            num_val=s.val,
            size=(s.size, s.size),
            seed=s.seed,
        )
        write_atomically(record, (json.dumps(wanted, indent=1) + "\n").encode())
    return made.resolve()


def _check_generated(made: Path, record: Path, wanted: dict[str, Any]) -> None:
    """Refuse data that was generated with another [shapes] table."""
    try:
        there = read_json(record)
    except (OSError, ValueError):
        there = None
    if not isinstance(there, dict):
        raise UserError(
            f"{made} exists but not {record}, which says what was generated: remove {made}, or choose another --out"
        ) from None
    found = difference(there, wanted)
    if found is not None:
        raise UserError(f"{made} was generated with another [shapes] ({found[1]}): choose another --out, or remove it")
