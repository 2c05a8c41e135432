"""Values of recipes are finite and bounded: every number of every table of every method."""

from __future__ import annotations

import typing
from collections.abc import Iterator

import pytest
from pydantic import BaseModel

from barm.config import load_config
from barm.engine.config import RunConfig
from barm.errors import UserError
from barm.methods import METHODS

LARGE = ("inf", "-inf", "nan", "1e308", "-1e308")


def numbers(model: type[BaseModel], before: str = "") -> Iterator[tuple[str, int]]:
    """Dotted names of the fields that hold numbers with a point, and how many each holds (0: one, not in a list)."""
    for name, field in model.model_fields.items():
        for part in alternatives(field.annotation):
            if part is float:
                yield f"{before}{name}", 0
            elif typing.get_origin(part) is tuple and float in typing.get_args(part):
                yield f"{before}{name}", len(typing.get_args(part))
            elif isinstance(part, type) and issubclass(part, BaseModel):
                yield from numbers(part, f"{before}{name}.")


def alternatives(annotation: object) -> tuple[object, ...]:
    """What a field may hold: the parts of a union."""
    if isinstance(annotation, type):
        return (annotation,)
    if typing.get_origin(annotation) is tuple:
        return (annotation,)
    return tuple(part for one in typing.get_args(annotation) for part in alternatives(one))


def every() -> Iterator[tuple[str, str, str]]:
    """Method, key and value of everything that must not be accepted."""
    for method, config in METHODS.items():
        names = [(f"method.{name}", size) for name, size in numbers(config)]
        if method == "barm":  # the tables that all methods share
            names += numbers(RunConfig)
        for name, size in names:
            for value in LARGE:
                yield from ((method, name, written(value, place, size)) for place in range(max(size, 1)))


def written(value: str, place: int, size: int) -> str:
    """The value as TOML; in a list of ones, where the field holds a list."""
    return f"[{', '.join(value if i == place else '1.0' for i in range(size))}]" if size else value


def test_the_walk_finds_the_numbers():
    found = {(method, name) for method, name, _ in every()}
    assert {("barm", "base.lr.new"), ("barm", "increment.weight_decay"), ("barm", "base.scale")} <= found
    assert {("barm", "model.dropout"), ("barm", "method.triplet_weight"), ("ssul", "method.memory.threshold")} <= found
    assert len({name for _, name in found}) > 30


@pytest.mark.parametrize(("method", "name", "value"), list(every()))
def test_numbers_without_bound_are_refused(method, name, value):
    with pytest.raises(UserError) as error:
        load_config(f"shapes/2-1/{method}", [f"{name}={value}"])
    line = str(error.value)
    assert "\n" not in line
    assert name in line.replace(f"method.{method}.", "method.")
    assert "finite" in line or "or equal to" in line or "less than" in line or "greater than" in line or "range" in line


@pytest.mark.parametrize("name", ["base.lr.new", "base.weight_decay", "method.triplet_weight", "base.scale"])
def test_the_message_says_the_bound(name):
    value, bound = ("[0.5, 1e6]", "100") if name == "base.scale" else ("1e6", {"b": "100", "m": "10000"}[name[0]])
    bound = "1" if name == "base.weight_decay" else bound
    with pytest.raises(UserError, match=rf"^{name}: .*\b{bound}\b.*, got "):
        load_config("shapes/2-1/barm", [f"{name}={value}"])
