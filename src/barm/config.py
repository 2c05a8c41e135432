"""TOML <-> `RunConfig`: recipes of the package, files, overrides, and errors that name the key."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from barm.catalogue import methods_of, recipe_names, recipes_folder
from barm.engine.config import RunConfig
from barm.errors import UserError, nearest
from barm.labels import TABLES
from barm.methods import METHODS
from barm.models.download import check_named
from barm.reading import DEPTH, parse_toml, read_toml, too_deep

__all__ = ["load_config", "merge", "methods_of", "read_recipe", "recipe_names", "validate"]

Table = dict[str, Any]
LENGTHS = {"epochs", "updates"}  # keys of which a step has one


def load_config(
    recipe: str | Path, overrides: Sequence[str] = (), updates: Mapping[str, Any] | None = None
) -> RunConfig:
    """The configuration of a run.

    Args:
        recipe: name of a recipe such as ``voc/15-1/barm`` (data set, task, method; the task may be left out and given
            otherwise), or the path of a TOML file. A file may say ``extends = "voc/barm"``.
        overrides: ``table.key=value`` with the value as in TOML; a bare word is text.
        updates: tables merged over the recipe before the overrides.

    Raises:
        UserError: unknown recipe, key or value; says which, and the nearest name. So for a backbone on a hub which the
            recipe alone names and which was not fetched before.
    """
    asked: Table = dict(updates or {})
    table = merge(read_recipe(recipe), asked)
    for override in overrides:
        one = parse_override(override)
        table, asked = merge(table, one), merge(asked, one)
    _check_backbone(recipe, table, asked)
    return validate(table)


def _check_backbone(recipe: str | Path, table: Table, asked: Table) -> None:
    """Refuse a recipe's backbone that would be fetched from a hub, unless the user names it, too."""
    named, own = (t.get("model") for t in (table, asked))
    name = named.get("backbone") if isinstance(named, dict) else None
    if not isinstance(own, dict) or own.get("backbone") != name:
        check_named(name, str(recipe), f", or add --set model.backbone={name}")


def validate(table: Mapping[str, Any]) -> RunConfig:
    """Turn a table into a configuration; the first thing wrong becomes one line."""
    try:
        return RunConfig.model_validate(dict(table))
    except ValidationError as error:
        raise UserError(_explain(error, table)) from None


def read_recipe(recipe: str | Path, below: Sequence[str] = ()) -> Table:
    """A recipe as a table, with what it extends merged in.

    A recipe may have tables such as ``[tasks."10-1".increment]``, merged over it where its name has that task.

    Args:
        recipe: name or file.
        below: recipes that extend this one, in that order, to detect a circle.
    """
    path = Path(recipe)
    if str(recipe) in below:
        raise UserError(f"recipes extend each other in a circle: {' -> '.join([*below, str(recipe)])}; end it")
    if path.suffix == ".toml":
        if not path.is_file():
            raise UserError(f"no recipe file {path}: give an existing .toml, or a name that `barm recipes` lists")
        table, task = read_toml(path), None
    else:
        text, task = _packaged(str(recipe))
        table = parse_toml(text, path)
    parent = table.pop("extends", None)
    table.pop("provenance", None)
    if not isinstance(parent, str | None):
        raise UserError(f"{recipe}: extends expects the name or file of a recipe in quotes, got {parent!r}")
    if parent is not None:
        table = merge(read_recipe(parent, [*below, str(recipe)]), table)
    tasks = table.get("tasks", {})
    if not (isinstance(tasks, dict) and all(isinstance(t, dict) for t in tasks.values())):
        raise UserError(f'{recipe}: tasks expects tables such as [tasks."10-1".increment], got {tasks!r}')
    if task:
        table = merge(merge(table, tasks.get(task, {})), {"task": {"name": task}})
    if task or not below:
        table.pop("tasks", None)
    return table


def _packaged(name: str) -> tuple[str, str | None]:
    """Text of a packaged recipe and the task in its name."""
    parts = name.split("/")
    data, method, task = parts[0], parts[-1], parts[1] if len(parts) == 3 else None
    file = recipes_folder().joinpath(f"{data}/{method}.toml")
    if len(parts) not in (2, 3) or not file.is_file():
        hint = nearest(name, recipe_names()) or "; `barm recipes` lists them"
        raise UserError(f"unknown recipe '{name}': expected <data>/<task>/<method> or a .toml file{hint}")
    return file.read_text("utf-8"), task


def merge(base: Table, over: Mapping[str, Any]) -> Table:
    """Merge `over` into `base`, table by table.

    A [method] of another name, or a task of another kind, replaces the whole table. A length in updates replaces one
    in epochs, and the other way round.
    """
    result = dict(base)
    for key, value in over.items():
        old = result.get(key)
        if not (isinstance(value, Mapping) and isinstance(old, Mapping)):
            result[key] = value
        elif key == "method" and value.get("name", old.get("name")) != old.get("name"):
            result[key] = dict(value)
        elif key == "task" and {"name", "groups"} & set(value):
            result[key] = {**{k: v for k, v in old.items() if k not in ("name", "groups")}, **value}
        elif key in TABLES and len(LENGTHS & set(value)) == 1:
            result[key] = merge({k: v for k, v in old.items() if k not in LENGTHS}, value)
        else:
            result[key] = merge(dict(old), value)
    return result


def parse_override(text: str) -> Table:
    """``a.b=1`` -> ``{"a": {"b": 1}}``."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UserError(f"--set expects table.key=value, got '{text}'")
    if not value.strip():
        raise UserError(f"--set {text.strip()} has no value: give table.key=value, or leave it out")
    parts = key.strip().split(".")
    try:
        parsed: Any = tomllib.loads(f"x = {value}")["x"]
    except tomllib.TOMLDecodeError:
        parsed = value.strip()
    except RecursionError:
        parsed = None
    if parsed is None or len(parts) > DEPTH or too_deep(parsed):
        raise UserError(f"--set {text[:40]}... is nested too deeply: give table.key=value")
    for part in reversed(parts):
        parsed = {part: parsed}
    table: Table = parsed
    return table


def _explain(error: ValidationError, table: Mapping[str, Any]) -> str:
    """Describe the first problem of a validation error in one line."""
    first = error.errors(include_url=False)[0]
    place = [str(p) for p in first["loc"]]
    key = ".".join(place)
    if first["type"] == "extra_forbidden":
        known = _fields(place[:-1], table)
        where = f"[{'.'.join(place[:-1])}]" if place[:-1] else "the recipe"
        return f"unknown key '{place[-1]}' in {where}{nearest(place[-1], known) or '; known: ' + ', '.join(known)}"
    if first["type"] == "missing" and key == "task":
        return (
            "no task: give it in the recipe's name (voc/15-1/barm), with --task 15-1 or --group once per step; in "
            'Python with load_config(..., updates={"task": {"name": "15-1"}}) or overrides=["task.name=15-1"]'
        )
    if first["type"] == "missing":
        return f"the recipe lacks '{key}': give it in the recipe or with --set {key}=..."
    message = str(first["msg"]).removeprefix("Value error, ")
    told = f"{key}: {message}" if key else message
    return told if first["type"] == "value_error" else f"{told}, got {first['input']!r}"


def _fields(place: Sequence[str], table: Mapping[str, Any]) -> list[str]:
    """Names of the keys that a table of the configuration has."""
    model: type[BaseModel] = RunConfig
    for part in place:
        if part == "method":
            model = METHODS[str(table["method"]["name"])]
            continue
        annotation = model.model_fields[part].annotation
        tables = [a for a in (annotation, *get_args(annotation)) if isinstance(a, type) and issubclass(a, BaseModel)]
        if not tables:
            return []
        model = tables[0]
    return list(model.model_fields)
