"""Any text in the place of a file that people write: a value, or one line that says what is wrong."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from barm.cli.common import groups_in, names_in
from barm.config import load_config, parse_override
from barm.data.class_names import parse_classes
from barm.data.class_values import read_class_values
from barm.data.importers.brush_rle import brush, check_brush
from barm.data.index import read_class_list
from barm.data.text import read_lines
from barm.errors import UserError
from barm.grid_file import cells, read_grid
from barm.reading import parse_json, parse_toml, read_yaml

FEW = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
TREES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
)
LINES = st.lists(st.text(st.characters(codec="utf-8"), max_size=30), max_size=6).map("\n".join)
SIGNS = st.text("[]{}=.,:#'\"\\\n\t -_*&!|>abx019\u00e9\u202e\0", max_size=60)


def told(read, *args) -> None:
    """Call a reader; a refusal is one `UserError`."""
    with suppress(UserError):
        read(*args)


@FEW
@given(SIGNS | LINES)
@example("a." * 70 + "a=1")
@example("[" * 5000)
def test_texts(tmp_path, text):
    path = tmp_path / "x.toml"
    path.write_text(text, "utf-8", newline="")
    for parse in (parse_json, parse_toml, parse_classes):
        told(parse, text, path)
    for read in (read_yaml, read_lines, read_class_values, read_class_list, read_grid, load_config):
        told(read, path)
    told(parse_override, text)
    told(names_in, text, "--classes")
    told(groups_in, [text, f"@{path}"])


@FEW
@given(TREES)
def test_values_of_a_recipe_and_a_grid(tmp_path, value):
    import tomli_w

    for key in ("task", "base", "tasks", "methods", "seeds", "quick", "variants", "extends", "model", "data"):
        try:
            text = tomli_w.dumps({"recipes": "shapes", "methods": ["mib"], "tasks": ["2-1"], key: value})
        except (TypeError, ValueError):  # no TOML
            return
        (tmp_path / "x.toml").write_text(text, "utf-8")
        told(lambda: cells(read_grid(tmp_path / "x.toml")))
        told(load_config, tmp_path / "x.toml")


@FEW
@given(TREES)
def test_what_json_gives_back(value):
    text = json.dumps(value)
    again = parse_json(text, Path("x.json"))
    assert json.dumps(again) == text


@FEW
@given(st.lists(st.integers(-3, 300), max_size=60))
def test_run_lengths(values):
    if check_brush(values, (8, 6)) is None:
        told(lambda: brush(values, (8, 6))((8, 6)))


@pytest.mark.parametrize("text", ["image0 " + "9" * 5000, "image0 " + "\u0663", "image0 -1"])
def test_numbers_of_a_class_list(text, tmp_path):
    (tmp_path / "list.txt").write_text(text + "\n", "utf-8")
    with pytest.raises(UserError, match=r"list\.txt:1: expected"):
        read_class_list(tmp_path / "list.txt")
