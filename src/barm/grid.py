"""A grid of runs: methods x tasks x settings x class orders x seeds, trained as far as they are missing."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from barm.api import fit
from barm.config import load_config, merge
from barm.data.shapes_disk import Layout, make_shapes
from barm.errors import Stopped, UserError, nearest
from barm.labels import Setting
from barm.methods import METHODS
from barm.report.compare import read_result


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


class GridConfig(_Table):
    """What is compared.

    Attributes:
        recipes: folder of the recipes, such as ``shapes`` or ``voc``.
        methods: names of recipes in it.
        tasks: ``<first>-<increment>``.
        settings: of the tasks.
        orders: of the classes; 0 is the data set's own.
        seeds: of the runs.
        same_start: groups of methods whose step 0 is the same training; each group trains it once.
        overrides: ``table.key=value`` for every run.
        shapes: data to generate, where `--data` is not given.
    """

    recipes: str
    methods: tuple[str, ...] = Field(min_length=1)
    tasks: tuple[str, ...] = Field(min_length=1)
    settings: tuple[Setting, ...] = ("overlap",)
    orders: tuple[int, ...] = (0,)
    seeds: tuple[int, ...] = (1,)
    same_start: tuple[tuple[str, ...], ...] = ()
    overrides: tuple[str, ...] = ()
    shapes: ShapesConfig | None = None

    @model_validator(mode="after")
    def _known_methods(self) -> GridConfig:
        for name in (*self.methods, *(n for group in self.same_start for n in group)):
            if name not in METHODS:
                raise ValueError(f"unknown method '{name}'{nearest(name, METHODS)}")
        return self


class Cell(NamedTuple):
    """One run of a grid."""

    method: str
    task: str
    setting: str
    order: int
    seed: int

    def name(self, method: str | None = None) -> str:
        """Its folder; with another method, that of the same cell there."""
        order = f"-o{self.order}" if self.order else ""
        return f"{self.task}-{self.setting}{order}-s{self.seed}/{method or self.method}"


def read_grid(path: Path) -> GridConfig:
    """Read a grid file.

    Raises:
        UserError: no such file, no TOML, or an unknown key or value.
    """
    if not path.is_file():
        raise UserError(f"no grid file {path}: give an existing .toml")
    try:
        return GridConfig.model_validate(tomllib.loads(path.read_text("utf-8")))
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path} is not valid TOML: {error}") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            known = ShapesConfig.model_fields if len(first["loc"]) > 1 else GridConfig.model_fields
            raise UserError(f"{path}: unknown key '{key}'{nearest(str(first['loc'][-1]), known)}") from None
        message = str(first["msg"]).removeprefix("Value error, ")
        raise UserError(f"{path}: {f'{key}: ' if key else ''}{message}") from None


def cells(grid: GridConfig) -> list[Cell]:
    """All runs, the methods of one task beside each other."""
    return [
        Cell(method, task, setting, order, seed)
        for task, setting, order, seed, method in product(
            grid.tasks, grid.settings, grid.orders, grid.seeds, grid.methods
        )
    ]


def run_grid(
    grid: GridConfig, out: Path, data: Path | None, say: Callable[[str], None], *, quiet: bool = False
) -> tuple[list[Path], list[str]]:
    """Train what is missing; a run that fails is reported and left out.

    Args:
        grid: what to run.
        out: folder for the runs, and for generated data.
        data: the data set's folder, unless the grid generates one.
        say: is told about every run.
        quiet: no progress bars.

    Returns:
        The folders of the finished runs, and a line for every failed one.
    """
    root = _data(grid, out, data)
    todo = cells(grid)
    finished, failed = [], []
    for number, cell in enumerate(todo, start=1):
        path = out / cell.name()
        if _is_finished(path):
            finished.append(path)
            continue
        say(f"[{number}/{len(todo)}] {cell.name()}")
        try:
            _train(grid, cell, out, root, quiet)
            finished.append(path)
        except (Stopped, KeyboardInterrupt):
            raise
        except Exception as error:  # one failed run does not lose the others
            failed.append(f"{cell.name()}: {type(error).__name__ if not isinstance(error, UserError) else ''} {error}")
            say(f"failed: {failed[-1]}")
    return finished, failed


def _train(grid: GridConfig, cell: Cell, out: Path, root: Path, quiet: bool) -> None:
    path = out / cell.name()
    updates: dict[str, Any] = {
        "seed": cell.seed,
        "data": {"root": str(root)},
        "task": {"name": cell.task, "setting": cell.setting, "order": cell.order},
    }
    config = load_config(f"{grid.recipes}/{cell.method}", grid.overrides, merge({}, updates))
    start = _same_start(grid.same_start, cell, out)
    fit(config, out=path, resume=path.exists(), start_from=start, quiet=quiet)


def _same_start(groups: Sequence[Sequence[str]], cell: Cell, out: Path) -> Path | None:
    """Another run of the same cell that has done the same step 0."""
    alike = [name for group in groups if cell.method in group for name in group if name != cell.method]
    return next((out / cell.name(n) for n in alike if (out / cell.name(n) / "step00").is_dir()), None)


def _is_finished(path: Path) -> bool:
    try:
        read_result(path)
    except UserError:
        return False
    return True


def _data(grid: GridConfig, out: Path, data: Path | None) -> Path:
    if data is not None:
        return data.resolve()
    if grid.shapes is None:
        raise UserError("no data set: pass --data DIR, or give the grid a [shapes] table")
    made, s = out / "data", grid.shapes
    if not made.exists():
        make_shapes(
            made,
            layout=s.layout,
            num_classes=s.classes,
            num_train=s.train,
            num_val=s.val,
            size=(s.size, s.size),
            seed=s.seed,
        )
    return made.resolve()
