"""Imports point down, the engine and the data know no method by name, files and functions stay small."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import barm
from barm.methods import METHODS

ROOT = Path(barm.__file__).parent
LAYERS = [
    {"errors", "escaping", "reading", "words", "catalogue", "labels", "batch"},
    {"losses", "metrics"},
    {"models", "data"},
    {"methods"},
    {"engine"},
    {"report"},
    {"config", "settings"},
    {"api", "export", "finding", "hub", "official", "trained"},
    {"demo", "grid", "bench", "inference", "extension", "app", "story"},
    {"cli"},
]
FILES = sorted(ROOT.rglob("*.py"))


def layer(module: str) -> int:
    """Number of the layer that a module of the package belongs to."""
    return next(i for i, names in enumerate(LAYERS) if module in names)


def imported(tree: ast.AST) -> set[str]:
    """First-level modules of the package that a file imports."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("barm."):
            names.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            names |= {a.name.split(".")[1] for a in node.names if a.name.startswith("barm.")}
    return names


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_imports_point_down(file):
    own = file.relative_to(ROOT).parts[0].removesuffix(".py")
    if own == "__init__":
        return
    used = imported(ast.parse(file.read_text("utf-8")))
    above = {name for name in used if layer(name) > layer(own)}
    assert not above, f"{file.name} imports {above} from a higher layer"


@pytest.mark.parametrize("folder", ["engine", "data"])
def test_no_method_by_name(folder):
    for file in (ROOT / folder).rglob("*.py"):
        words = {n.value for n in ast.walk(ast.parse(file.read_text("utf-8"))) if isinstance(n, ast.Constant)}
        assert not words & (set(METHODS) - {"barm"}), f"{file} names a method"  # "barm" is the package, too
        assert not any("barm.methods.barm" in str(w) for w in words)


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_sizes(file):
    text = file.read_text("utf-8")
    assert text.count("\n") <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            doc = (ast.get_docstring(node) or "").count("\n")
            size = (node.end_lineno or node.lineno) - node.lineno + 1 - doc
            assert size <= 60, f"{node.name} has {size} lines"
