"""A grid of runs: methods x tasks x settings x class orders x seeds. Only missing runs are trained."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from barm.api import fit
from barm.catalogue import methods_of
from barm.config import load_config, merge
from barm.data.sources.shapes_disk import Layout, make_shapes
from barm.engine.checkpoint.atomic import write_atomically
from barm.engine.checkpoint.differences import agreeing, difference, settings
from barm.engine.checkpoint.directory import IMAGES, RunDirectory
from barm.engine.checkpoint.images import other_images
from barm.engine.config import RunConfig
from barm.errors import Stopped, UserError, nearest
from barm.escaping import placeless
from barm.labels import Setting
from barm.reading import read_json, read_toml
from barm.report.compare import COMPARED, Result, read_result, task_name

FIRST = "step00"  # in a run's folder, of its first step


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ShapesConfig(_Table):
    """Generated data for a grid; see `make_shapes`."""

    layout: Layout = "voc"
    classes: int = Field(20, ge=1)
    train: int = Field(1000, ge=1)
    val: int = Field(200, ge=1)
    size: int = Field(96, ge=1)
    seed: int = Field(0, ge=0)


class Variant(_Table):
    """A recipe with some settings changed, as a method of a grid.

    Attributes:
        recipe: its name in the grid's folder of recipes.
        overrides: ``table.key=value``, after those of the grid.
    """

    recipe: str
    overrides: tuple[str, ...] = Field(min_length=1)


class GridConfig(_Table):
    """The runs of a grid.

    Attributes:
        recipes: folder of the recipes, such as ``shapes`` or ``voc``.
        methods: names of recipes in it, such as ``barm`` or ``mib-published``, or of `variants`.
        tasks: ``<first>-<increment>``.
        settings: of the tasks.
        orders: of the classes; 0 is the data set's own.
        seeds: of the runs. No list may be empty or name anything twice.
        same_start: groups of methods whose step 0 is the same training; each group trains it once.
        overrides: ``table.key=value`` for every run.
        variants: further methods, by name.
        skip: names of runs that are left out, such as ``6-1-overlap-s1/barm``.
        quick: keys of this table with the values that they have for ``--quick``; its overrides come after the others.
        shapes: data to generate, where `--data` is not given.
    """

    recipes: str
    methods: tuple[str, ...] = Field(min_length=1)
    tasks: tuple[str, ...] = Field(min_length=1)
    settings: tuple[Setting, ...] = Field(("overlap",), min_length=1)
    orders: tuple[int, ...] = Field((0,), min_length=1)
    seeds: tuple[int, ...] = Field((1,), min_length=1)
    same_start: tuple[tuple[str, ...], ...] = ()
    overrides: tuple[str, ...] = ()
    variants: dict[str, Variant] = Field(default_factory=dict)
    skip: tuple[str, ...] = ()
    quick: dict[str, Any] = Field(default_factory=dict)
    shapes: ShapesConfig | None = None

    @field_validator("methods", "tasks", "settings", "orders", "seeds")
    @classmethod
    def _each_once(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        twice = [v for v in values if values.count(v) > 1]
        if twice:
            raise ValueError(f"'{twice[0]}' stands there twice: list everything once")
        return values

    @model_validator(mode="after")
    def _known_recipes(self) -> GridConfig:
        recipes = methods_of(self.recipes)
        again = [name for name in self.variants if name in recipes or not re.fullmatch(r"[\w.+-]+", name)]
        if again:
            raise ValueError(f"a variant may not be called '{again[0]}': give it letters, and no recipe's name")
        for name in (*self.methods, *(n for group in self.same_start for n in group)):
            _check_name(name, [*recipes, *self.variants], self.recipes)
        for variant in self.variants.values():
            _check_name(variant.recipe, recipes, self.recipes)
        return self

    def shortened(self) -> GridConfig:
        """The grid of ``--quick``.

        Raises:
            ValidationError: if a key of `quick` is wrong.
        """
        overrides = (*self.overrides, *self.quick.get("overrides", ()))
        return GridConfig.model_validate(self.model_dump(exclude={"quick"}) | self.quick | {"overrides": overrides})


def _check_name(name: str, known: Sequence[str], recipes: str) -> None:
    """Refuse the name of a method that is not known."""
    if name not in known:
        hint = nearest(name, known) or f"; known: {', '.join(known)}"
        raise ValueError(f"unknown recipe '{name}' in '{recipes}'{hint}")


class Cell(NamedTuple):
    """One run of a grid."""

    method: str
    task: str
    setting: str
    order: int
    seed: int

    def name(self, method: str | None = None) -> str:
        """The name of the run's folder; with another method, that of the same cell there."""
        order = f"-o{self.order}" if self.order else ""
        return f"{self.task}-{self.setting}{order}-s{self.seed}/{method or self.method}"


def read_grid(path: Path | str, overrides: Sequence[str] = (), *, quick: bool = False) -> GridConfig:
    """Read a grid file.

    Args:
        path: of the file.
        overrides: ``table.key=value`` for every run, after the file's.
        quick: the grid of its ``[quick]`` table.

    Raises:
        UserError: no such file, no TOML, or an unknown key or value.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no grid file {path}: give an existing .toml")
    try:
        grid = GridConfig.model_validate(read_toml(path))
        short = grid.shortened()
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            known = ShapesConfig.model_fields if len(first["loc"]) > 1 else GridConfig.model_fields
            raise UserError(f"{path}: unknown key '{key}'{nearest(str(first['loc'][-1]), known)}") from None
        message = str(first["msg"]).removeprefix("Value error, ")
        raise UserError(f"{path}: {f'{key}: ' if key else ''}{message}") from None
    if quick and not grid.quick:
        raise UserError(f"{path} has no [quick] table, which says what --quick trains: leave --quick out")
    grid = short if quick else grid
    return grid.model_copy(update={"overrides": (*grid.overrides, *overrides)})


def cells(grid: GridConfig) -> list[Cell]:
    """All runs of the grid, with the methods of one task next to each other."""
    every = (
        Cell(method, task, setting, order, seed)
        for task, setting, order, seed, method in product(
            grid.tasks, grid.settings, grid.orders, grid.seeds, grid.methods
        )
    )
    return [cell for cell in every if cell.name() not in grid.skip]


def without_known(grid: GridConfig, known: Sequence[Result]) -> GridConfig:
    """The grid without the runs whose results are known: same task, seed and settings, on whatever machine.

    Args:
        grid: the runs.
        known: results, such as those of a stored ``compare.json``.
    """
    done = [cell.name() for cell in cells(grid) if known and any(_is_of(result, grid, cell) for result in known)]
    return grid.model_copy(update={"skip": (*grid.skip, *done)})


def _is_of(result: Result, grid: GridConfig, cell: Cell) -> bool:
    """Whether a result is that of a run of the grid. Files of settings count by their names, without their folders."""
    if (result.seed, result.order) != (cell.seed, cell.order):
        return False
    try:
        config = config_of(grid, cell, Path())
    except UserError:  # said when it is its turn
        return False
    theirs, ours = placeless(result.settings), placeless(settings(config, COMPARED))
    return result.task == task_name(config) and difference(theirs, agreeing(theirs, ours)) is None


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
    out, data = Path(out), None if data is None else Path(data)
    root = data_root(grid, out, data)
    todo = cells(grid)
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
            failed.append(f"{cell.name()}: {type(error).__name__ if not isinstance(error, UserError) else ''} {error}")
            say(f"failed: {failed[-1]}")
    return finished, failed


def train_cell(grid: GridConfig, cell: Cell, out: Path, root: Path, *, quiet: bool = False) -> None:
    """Train one run of a grid, or go on with it; its step 0 is taken over where another run has the same."""
    path = out / cell.name()
    there = (out / cell.name(name) for name in alike(grid, cell.method))
    start = next((other for other in there if (other / FIRST).is_dir()), None)
    fit(config_of(grid, cell, root), out=path, resume=path.exists(), start_from=start, quiet=quiet)


def alike(grid: GridConfig, method: str) -> list[str]:
    """The methods whose step 0 is the same training as this one's, without itself."""
    return [name for group in grid.same_start if method in group for name in group if name != method]


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
