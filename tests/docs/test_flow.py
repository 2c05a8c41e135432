"""The drawings in CONTRIBUTING.md are those of the code, and a line that the code does not have is refused."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def flow():
    spec = importlib.util.spec_from_file_location("flow", DOCS / "flow.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_they_are_up_to_date(flow):
    text = flow.PAGE.read_text("utf-8")
    assert flow.written(text) == text, "run python docs/flow.py"


@pytest.mark.parametrize(
    ("outline", "message"),
    [
        ("engine.run.walk", "the package has no engine.run.walk"),
        ("api.fit\n  engine.train.train_step", "api.fit does not name train_step"),
    ],
)
def test_what_the_code_has_not_is_refused(flow, outline, message):
    with pytest.raises(SystemExit, match=message):
        flow.drawing(outline)
