"""The file of a grid: methods x tasks x settings x class orders x seeds."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from barm.catalogue import methods_of
from barm.data.sources.shapes_disk import Layout
from barm.errors import UserError, nearest
from barm.labels import Setting
from barm.reading import read_toml


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


class Quick(_Table):
    """A shorter form of a grid: what is given replaces what the grid says, and `overrides` are added to all others."""

    methods: tuple[str, ...] | None = None
    tasks: tuple[str, ...] | None = None
    settings: tuple[Setting, ...] | None = None
    orders: tuple[int, ...] | None = None
    seeds: tuple[int, ...] | None = None
    overrides: tuple[str, ...] = ()


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
        quick: what is trained with ``--quick``.
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
    quick: Quick | None = None
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
        again = [name for name in self.variants if name in recipes or not re.fullmatch(r"\w[\w.+-]*", name)]
        if again:
            raise ValueError(f"a variant may not be called '{again[0]}': give it letters, and no recipe's name")
        for name in (*self.methods, *(n for group in self.same_start for n in group)):
            _check_name(name, [*recipes, *self.variants], self.recipes)
        for variant in self.variants.values():
            _check_name(variant.recipe, recipes, self.recipes)
        return self

    @model_validator(mode="after")
    def _known_runs(self) -> GridConfig:
        known = [cell.name() for cell in _every_cell(self)]
        unknown = [name for name in self.skip if name not in known]
        if unknown:
            raise ValueError(f"skip: there is no run '{unknown[0]}'{nearest(unknown[0], known)}")
        return self

    def shortened(self) -> GridConfig:
        """The grid of ``--quick``.

        Raises:
            ValidationError: if a value of `quick` is wrong.
        """
        if self.quick is None:
            return self
        values = self.quick.model_dump(exclude={"overrides"}, exclude_none=True)
        short = GridConfig.model_validate({**self.model_dump(exclude={"quick", "skip"}), **values})
        return short.with_overrides(self.quick.overrides)

    def with_overrides(self, more: Sequence[str]) -> GridConfig:
        """A copy in which all runs, those of variants too, have further overrides after their own."""
        variants = {
            name: variant.model_copy(update={"overrides": (*variant.overrides, *more)})
            for name, variant in self.variants.items()
        }
        return self.model_copy(update={"overrides": (*self.overrides, *more), "variants": variants})


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
            inner: dict[str, type[_Table]] = {"shapes": ShapesConfig, "quick": Quick, "variants": Variant}
            table = inner[str(first["loc"][0])] if len(first["loc"]) > 1 else GridConfig
            known = list(table.model_fields)
            raise UserError(f"{path}: unknown key '{key}'{nearest(str(first['loc'][-1]), known)}") from None
        message = str(first["msg"]).removeprefix("Value error, ")
        raise UserError(f"{path}: {f'{key}: ' if key else ''}{message}") from None
    if quick and grid.quick is None:
        raise UserError(f"{path} has no [quick] table, which says what --quick trains: leave --quick out")
    return (short if quick else grid).with_overrides(overrides)


def cells(grid: GridConfig) -> list[Cell]:
    """All runs of the grid, with the methods of one task next to each other."""
    return [cell for cell in _every_cell(grid) if cell.name() not in grid.skip]


def _every_cell(grid: GridConfig) -> Iterator[Cell]:
    """The runs of the grid and those that it skips."""
    for task, setting, order, seed, method in product(grid.tasks, grid.settings, grid.orders, grid.seeds, grid.methods):
        yield Cell(method, task, setting, order, seed)


def alike(grid: GridConfig, method: str) -> list[str]:
    """The methods whose step 0 is the same training as this one's, without itself."""
    return [name for group in grid.same_start if method in group for name in group if name != method]
