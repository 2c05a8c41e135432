"""The settings that decide a run's result, as opposed to where and how fast it runs, and their differences."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from barm.engine.config import RunConfig

AGREEING = ("seed", "data", "task", "model", "method", "base", "increment", "evaluation")  # tables that decide it
BASE = ("seed", "data", "task", "model", "base", "evaluation")  # those that step 0 depends on, beside the method
NEUTRAL = (
    "data.root",
    "data.val",
    "data.unlabelled",
    "data.cache_mb",
    "evaluation.batch_size",
)  # but not these in them


def to_table(config: RunConfig) -> dict[str, Any]:
    """The configuration as a TOML table: every value, except those that are None."""
    table: dict[str, Any] = _without_none(json.loads(config.model_dump_json()))
    return table


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_none(v) for k, v in value.items() if v is not None}
    return value


def settings(config: RunConfig, tables: Sequence[str] = AGREEING) -> dict[str, Any]:
    """Settings that decide the result, by dotted names such as ``base.lr.new``.

    Args:
        config: of a run.
        tables: tables of the configuration that are included.
    """
    table = to_table(config)
    flat = _flat({name: table[name] for name in tables if name in table})
    return {key: value for key, value in flat.items() if key not in NEUTRAL}


def agreeing(stored: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """Settings in which values that are left to the data are replaced by those decided for a stored run.

    >>> agreeing({"base.crop": 161}, {"base.crop": "auto", "seed": 1})
    {'base.crop': 161, 'seed': 1}
    """
    return {key: stored.get(key, value) if value == "auto" else value for key, value in asked.items()}


def _flat(table: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        flat |= _flat(value, f"{before}{key}.") if isinstance(value, dict) else {before + key: value}
    return flat


def differing(*several: Mapping[str, Any]) -> list[str]:
    """Names of settings that differ between several runs, in their order.

    >>> differing({"seed": 1, "base.epochs": 2}, {"seed": 1, "base.epochs": 3})
    ['base.epochs']
    """
    names = dict.fromkeys(name for one in several for name in one)
    return [name for name in names if any(one.get(name) != several[0].get(name) for one in several)]


def shown(value: Any) -> str:
    """Format a value as in a recipe, text without quotes.

    >>> shown(False), shown("v3"), shown(None)
    ('false', 'v3', 'none')
    """
    return "none" if value is None else value if isinstance(value, str) else json.dumps(value)


def difference(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> tuple[str, str] | None:
    """Table and description of the first setting that differs, or None if both agree.

    >>> difference({"base.epochs": 2}, {"base.epochs": 3})
    ('base', 'base.epochs is 2 there, 3 here')
    """
    names = differing(theirs, ours)
    if not names:
        return None
    name = names[0]
    return name.split(".")[0], f"{name} is {shown(theirs.get(name))} there, {shown(ours.get(name))} here"


def other_class(theirs: Mapping[int, str], ours: Sequence[str]) -> str | None:
    """Describe the first class that has another name in a data set; None if all agree.

    Args:
        theirs: names by dataset id, of some or all classes.
        ours: names by dataset id, background first.

    >>> other_class({0: "background", 2: "cat"}, ["background", "dog", "cow"])
    "class 2 is 'cat' there, 'cow' here"
    """
    for number, name in theirs.items():
        own = ours[number] if number < len(ours) else "missing"
        if own != name:
            return f"class {number} is '{name}' there, '{own}' here"
    return None


def unlike(own: Any, given: Any, name: str) -> str | None:
    """Describe the first difference in keys or tensor shapes between two nested tables; None if there is none.

    >>> import torch
    >>> unlike({"a": torch.zeros(2)}, {"a": torch.zeros(3)}, "model")
    'model.a is (3,), expected (2,)'
    >>> unlike({"a": {}}, {"b": {}}, "model")
    'model lacks a'
    """
    if isinstance(own, Tensor):
        if not isinstance(given, Tensor):
            return f"{name} is no tensor"
        return None if own.shape == given.shape else f"{name} is {tuple(given.shape)}, expected {tuple(own.shape)}"
    if not isinstance(own, dict):
        return None
    if not isinstance(given, dict):
        return f"{name} is no table"
    for verb, keys in (("lacks", own.keys() - given.keys()), ("has besides", given.keys() - own.keys())):
        if keys:
            return f"{name} {verb} {min(map(str, keys))}"
    return next((found for key in own if (found := unlike(own[key], given[key], f"{name}.{key}")) is not None), None)
