"""Explanations of the configuration's keys, and recipes shown with them.

The words stand once, under `Attributes:` in the docstrings of the models; docs/settings.py writes the reference from
them.
"""

from __future__ import annotations

import inspect
import json
import re
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import tomli_w
from pydantic import BaseModel

from barm.config import load_config, read_recipe
from barm.engine.config import RunConfig

WIDTH, COLUMN = 110, 34  # of the lines of a shown recipe, and where their comments begin
ANY_TASK = {"task": {"name": "1-1"}}  # stands in for the one that a recipe leaves open
HEAD = """\
# The recipe {name}, whole. Save it, change it, and train with --recipe FILE.toml.
# A line that begins with # sets nothing: it shows an example, or a value that follows from the other keys.
"""
NO_TASK = "# No task is set: uncomment one of the next two lines, or give --task 15-1, or --group once per step.\n"
_ITEM = re.compile(r"^    (\w+): (.*(?:\n {5,}.*)*)", re.MULTILINE)
_SPEC = re.compile(r"\s*\(spec/[^)]*\)")  # sources of the formulas, for whoever reads the code


class Line(NamedTuple):
    """A key or a table's header, with its explanation.

    Attributes:
        entry: in TOML; a comment where it is not set.
        words: its explanation.
    """

    entry: str
    words: str


def explained(model: type[BaseModel]) -> dict[str, str]:
    """Explanations of every key, from the docstrings of a model and its base classes.

    Args:
        model: with ``Attributes:`` in its docstring; the nearest docstring that names a key counts.
    """
    found: dict[str, str] = {}
    for base in reversed(model.__mro__):
        section = inspect.cleandoc(vars(base).get("__doc__") or "").partition("\nAttributes:\n")[2]
        found |= {m[1]: _plain(m[2]) for m in _ITEM.finditer(re.split(r"\n(?=\S)", section)[0])}
    return found


def summary(model: type[BaseModel]) -> str:
    """The first paragraph of a model's docstring."""
    return _plain(inspect.cleandoc(model.__doc__ or "").partition("\n\n")[0])


def _plain(text: str) -> str:
    """A docstring's text on one line, without references to specifications."""
    return _SPEC.sub("", " ".join(text.split())).replace("``", "`")


def to_toml(value: Any) -> str:
    """Format a value as TOML on one line.

    >>> to_toml([0.5, 2]), to_toml({"size": 7, "labels": "seen"}), to_toml(False)
    ('[0.5, 2]', '{ size = 7, labels = "seen" }', 'false')
    """
    if isinstance(value, Mapping):
        pairs = ", ".join(f"{_toml_key(key)} = {to_toml(part)}" for key, part in value.items() if part is not None)
        return f"{{ {pairs} }}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(to_toml, value))}]"
    return tomli_w.dumps({"x": value}).removeprefix("x = ").removesuffix("\n")


def _toml_key(key: str) -> str:
    return tomli_w.dumps({key: 0}).removesuffix(" = 0\n")


def recipe_text(recipe: str | Path) -> str:
    """A recipe as TOML with every key resolved and explained. Given again as a file, it is the same recipe.

    Without a task, both ways to give one stand there as comments.

    Args:
        recipe: as `barm.load_config` takes it.

    Raises:
        UserError: as `barm.load_config`.
    """
    config, given, has_task = _resolved(recipe)
    parts = [HEAD.format(name=to_toml(str(recipe)))]
    for table, lines in _tables(config, given, "", ""):
        head, *rest = map(_shown, lines)
        note = [NO_TASK] if table == "task" and not has_task else []
        parts.append("".join([head, *note, *rest]))
    return "\n".join(parts)


def recipe_values(recipe: str | Path) -> dict[str, Any]:
    """Every value of a recipe for JSON; None for a key without a value.

    Raises:
        UserError: as `barm.load_config`.
    """
    values: dict[str, Any] = json.loads(_resolved(recipe)[0].model_dump_json())
    return values


def _resolved(recipe: str | Path) -> tuple[RunConfig, dict[str, Any], bool]:
    """Resolve a recipe: the configuration, the recipe's own table, and whether it has a task.

    Without a task in the recipe the configuration has none either.
    """
    given = read_recipe(recipe)
    task = given.get("task", {})
    has_task = not isinstance(task, Mapping) or bool({"name", "groups"} & set(task))
    config = load_config(recipe, updates={} if has_task else ANY_TASK)
    if not has_task:
        config = config.model_copy(update={"task": config.task.model_copy(update={"name": None})})
    return config, given, has_task


def _tables(model: BaseModel, given: Any, path: str, words: str) -> Iterator[tuple[str, list[Line]]]:
    """The name of a table and its lines, then those of its sub-tables.

    Args:
        model: the table.
        given: the table in the recipe itself.
        path: its dotted name; nothing for the whole configuration.
        words: its explanation.
    """
    kind, explanations = type(model), explained(type(model))
    values = json.loads(model.model_dump_json())
    inner = {name: value for name in kind.model_fields if isinstance(value := getattr(model, name), BaseModel)}
    derived: frozenset[str] = getattr(kind, "derived", frozenset()) - set(given if isinstance(given, Mapping) else ())
    lines = [Line(f"[{path}]", words)] if path else []
    for name, field in kind.model_fields.items():
        if name in inner:
            continue
        value = values[name]
        if value is None:
            value = (field.examples or [""])[0]
        unset = values[name] is None or name in derived
        lines.append(Line(f"{'# ' * unset}{name} = {to_toml(value)}", explanations.get(name, "")))
    yield path, lines
    for name, value in inner.items():
        declared = kind.model_fields[name].annotation
        more = summary(type(value)) if inspect.isclass(declared) and type(value) is not declared else ""
        part = given.get(name) if isinstance(given, Mapping) else None
        yield from _tables(value, part, f"{path}.{name}".lstrip("."), f"{explanations.get(name, '')} {more}".strip())


def _shown(line: Line) -> str:
    """A line with its explanation beside it, or below it where the entry is long."""
    rows = textwrap.wrap(line.words, WIDTH - COLUMN - 2, break_long_words=False, break_on_hyphens=False)
    beside = bool(rows) and len(line.entry) <= COLUMN - 2
    first = f"{line.entry:<{COLUMN}}# {rows[0]}" if beside else line.entry
    return "\n".join([first, *(f"{'':{COLUMN}}# {row}" for row in rows[beside:]), ""])
