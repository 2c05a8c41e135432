"""docs/reference/config.md says what the code says of every key."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field

from barm.methods import METHODS

DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "reference/config.md"
HOW = "docs/reference/config.md is not what the code says: run `python docs/settings.py`"


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    """What docs/settings.py defines."""
    return runpy.run_path(str(DOCS / "settings.py"))


def test_the_page_is_what_the_code_says(script):
    text = PAGE.read_text("utf-8")
    assert text.count(script["MARK"]) == 1
    same = script["page"](text) == text
    assert same, HOW


def test_the_terms_are_those_of_the_code(script):
    text = script["TERMS"].read_text("utf-8")
    assert script["terms"](text) == text, "run `python docs/settings.py`"


def test_a_page_made_from_other_code_is_noticed(script, monkeypatch):
    text = script["page"](PAGE.read_text("utf-8"))
    assert script["page"](text.replace("passes over the step's images", "rounds")) == text
    monkeypatch.setitem(METHODS, "new", METHODS["mib"])
    assert "### method.name = new" in script["page"](text)


def test_every_key_has_a_row(script):
    text = PAGE.read_text("utf-8")
    rows = [[cell.strip() for cell in row.split(" | ")] for row in re.findall(r"^\| (`\w+`.*) \|$", text, re.MULTILINE)]
    assert len(rows) > 80
    assert [row for row in rows if len(row) != 4 or not all(row)] == []
    assert all(f"### method.name = {name}\n" in text for name in METHODS)
    heads = re.findall(r"^##+ (\[.*)$", text, re.MULTILINE)
    options = [f"[method.{name}]" for name in ("memory", "fusion", "warm_start")]
    tables = ["[data]", "[[data.val]]", "[task]", "[model]", "[method]", *options, "[base] and [increment]"]
    adapters = ["[base.lora] and [increment.lora]"]
    assert heads == [*tables, "[base.lr] and [increment.lr]", *adapters, "[evaluation]", "[runtime]"]


class Kinds(BaseModel):
    """All kinds of keys.

    Attributes:
        share: one | other.
    """

    share: float = Field(0.5, ge=0, lt=1)
    sides: tuple[Annotated[int, Field(ge=1)], ...] = (1, 2)
    pair: tuple[float, float] | None = None
    side: int | Literal["auto"] = "auto"
    place: Path
    groups: tuple[tuple[str, ...], ...] = ()


def test_types_in_words(script):
    rows = {row.key: (row.kind, row.default) for row in script["rows"](Kinds)}
    assert rows == {
        "share": ("number, at least 0, below 1", "`0.5`"),
        "sides": ("list of whole numbers, at least 1", "`[1, 2]`"),
        "pair": ("list of 2 numbers", "not set"),
        "side": ('whole number or `"auto"`', '`"auto"`'),
        "place": ("path", "none, must be given"),
        "groups": ("list of lists of texts", "`[]`"),
    }
    assert r"one \| other." in script["table"](script["rows"](Kinds))
