"""Write the tables of docs/reference/config.md and the terms in docs/method.md from the code.

    python docs/settings.py

What stands above the mark in config.md, and outside of the marks in method.md, is written by hand and stays.
"""

from __future__ import annotations

import inspect
import json
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from barm.data.exemplars import MemoryConfig
from barm.engine.config import LoraConfig, PlaceConfig, RunConfig, StepRecipe
from barm.methods import METHODS
from barm.methods.base import MethodConfig
from barm.methods.fusion import FusionConfig
from barm.methods.groups import Rates
from barm.methods.warm_start import WarmStartConfig
from barm.settings import explained, summary, to_toml

PAGE = Path(__file__).parent / "reference/config.md"
MARK = "<!-- What follows is written by `python docs/settings.py` from the code; change the docstrings there. -->\n"
TERMS = Path(__file__).parent / "method.md"
BEGIN, END = "<!-- terms: written by docs/settings.py -->\n", "<!-- end of terms -->"
PLAIN: dict[Any, str] = {bool: "true or false", int: "whole number", float: "number", str: "text", Path: "path"}
PLURAL = {"whole number": "whole numbers", "number": "numbers", "text": "texts", "path": "paths", "table": "tables"}
BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


class Row(NamedTuple):
    """What the page says of a key: its name, its type in words, its default as TOML, its meaning."""

    key: str
    kind: str
    default: str
    meaning: str


def kind_of(annotation: Any, metadata: tuple[Any, ...] = ()) -> str:
    """A type in words.

    Args:
        annotation: of a field, or a part of it.
        metadata: bounds that belong to it.
    """
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return kind_of(parts[0], parts[1:])
    if origin is Literal:
        return either([code(part) for part in parts])
    if origin in (Union, types.UnionType):
        return either([kind_of(part, metadata) for part in parts if part is not type(None)])
    if origin is tuple and parts[-1] is Ellipsis:
        return f"list of {many(kind_of(parts[0]))}"
    if origin is tuple:
        return f"list of {len(parts)} {many(kind_of(parts[0]))}"
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return "table"
    return f"{PLAIN[annotation]}{bounds(metadata)}"


def either(words: list[str]) -> str:
    """``a, b or c``."""
    *most, last = words
    return f"{', '.join(most)} or {last}" if most else last


def many(kind: str) -> str:
    """A type's words in the plural; what follows the first noun stays."""
    noun = next((n for n in PLURAL if kind.startswith(n)), None)
    return kind.replace("list of", "lists of", 1) if noun is None else PLURAL[noun] + kind.removeprefix(noun)


def bounds(metadata: tuple[Any, ...]) -> str:
    """``, at least 0, at most 1``, from the marks that pydantic keeps with a field."""
    found: dict[str, float] = {}
    for mark in metadata:
        for one in mark.metadata if isinstance(mark, FieldInfo) else (mark,):
            found |= {name: getattr(one, name) for name in BOUNDS if getattr(one, name, None) is not None}
    return "".join(f", {BOUNDS[name]} {found[name]}" for name in BOUNDS if name in found)


def code(value: Any) -> str:
    """A value as TOML, in the type of code."""
    return f"`{to_toml(value)}`"


def default_of(field: FieldInfo) -> str:
    """A field's default."""
    if field.is_required():
        return "none, must be given"
    if field.default is None:
        return "not set"
    plain = field.default
    if isinstance(plain, BaseModel):
        plain = json.loads(plain.model_dump_json())
    return code(str(plain) if isinstance(plain, Path) else plain)


def rows(model: type[BaseModel]) -> list[Row]:
    """The keys of a table, without those that are tables always."""
    words = explained(model)
    return [
        Row(name, kind_of(field.annotation, tuple(field.metadata)), default_of(field), words.get(name, ""))
        for name, field in model.model_fields.items()
        if not (inspect.isclass(field.annotation) and issubclass(field.annotation, BaseModel))
    ]


def table(found: list[Row]) -> str:
    """Rows as a table of Markdown."""
    lines = ["| key | value | default | meaning |", "|---|---|---|---|"]
    for row in found:
        cells = (f"`{row.key}`", row.kind, row.default, row.meaning)
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines)


def methods() -> Iterator[str]:
    """The keys that every method has, and of each method those that it adds, or whose default is another."""
    common = rows(MethodConfig)
    yield f"## [method]\n\n{sentence(explained(RunConfig)['method'])} Every method has these keys:\n\n{table(common)}"
    for name, model in METHODS.items():
        own = [row for row in rows(model) if row not in common and row.key != "name"]
        text = f"### method.name = {name}\n\n{summary(model)}"
        yield f"{text}\n\n{table(own)}" if own else f"{text} It has no key beside those of every method."


def sentence(words: str) -> str:
    """Words with a capital letter."""
    return words[:1].upper() + words[1:]


def tables() -> Iterator[str]:
    """The sections of the page."""
    words = explained(RunConfig)
    yield f"## Without a table\n\n{table([row for row in rows(RunConfig) if row.key != 'method'])}"
    for name, field in RunConfig.model_fields.items():
        model = field.annotation
        if name == "method":
            yield from methods()
            for key, part in (("memory", MemoryConfig), ("fusion", FusionConfig), ("warm_start", WarmStartConfig)):
                yield f"### [method.{key}]\n\n{summary(part)}\n\n{table(rows(part))}"
        elif name == "base":
            both = f"`[base]`: {words['base']} `[increment]`: {words['increment']}"
            yield f"## [base] and [increment]\n\n{both}\n\n{table(rows(StepRecipe))}"
            yield f"### [base.lr] and [increment.lr]\n\n{summary(Rates)}\n\n{table(rows(Rates))}"
            yield f"### [base.lora] and [increment.lora]\n\n{summary(LoraConfig)}\n\n{table(rows(LoraConfig))}"
        elif name != "increment" and inspect.isclass(model) and issubclass(model, BaseModel):
            yield f"## [{name}]\n\n{sentence(words[name])}\n\n{table(rows(model))}"
            if name == "data":
                yield f"### [[data.val]]\n\n{summary(PlaceConfig)}\n\n{table(rows(PlaceConfig))}"


def page(text: str) -> str:
    """The page with its tables written anew.

    Args:
        text: the page as it is, with the mark in it.
    """
    return text.partition(MARK)[0] + MARK + "\n" + "\n\n".join(tables()) + "\n"


def terms(text: str) -> str:
    """The page on methods with its table of terms written anew; methods of the same terms share their rows."""
    sharing: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for name, model in METHODS.items():
        sharing.setdefault(tuple(model.terms.items()), []).append(name)
    lines = ["| method | term | what it is |", "|---|---|---|"]
    for rows_, names in sharing.items():
        lines += [f"| {'' if i else ', '.join(names)} | `{term}` | {what} |" for i, (term, what) in enumerate(rows_)]
    before, rest = text.split(BEGIN)
    return before + BEGIN + "\n".join(lines) + "\n" + END + rest.split(END)[1]


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text("utf-8")), "utf-8")
    TERMS.write_text(terms(TERMS.read_text("utf-8")), "utf-8")
