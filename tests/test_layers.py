"""Imports point down without a cycle, engine and data know no method by name, files and functions stay small."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from barm.methods import METHODS

DOCS = Path(__file__).resolve().parent.parent / "docs"
sys.path.insert(0, str(DOCS))
import layers  # noqa: E402  docs/layers.py

FILES = sorted(layers.ROOT.rglob("*.py"))


def test_every_package_imports_from_lower_layers_alone():
    assert layers.faults(layers.package_graph(layers.module_graph())) == []


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_no_cycle_between_packages_nor_between_modules(depth):
    assert layers.cycle(layers.package_graph(layers.module_graph(), depth)) == []


def test_a_new_package_and_a_new_cycle_are_found(tmp_path):
    root = tmp_path / "barm"
    for name, text in {
        "errors": "",
        "ops": "def f():\n    from barm.novel import x\n",
        "novel": "import barm.ops\n",
    }.items():
        root.mkdir(exist_ok=True)
        (root / f"{name}.py").write_text(text)
    packages = layers.package_graph(layers.module_graph(root))
    assert "'novel' is in no layer: add it to LAYERS in docs/layers.py" in layers.faults(packages)
    assert layers.cycle(packages) == ["novel", "ops", "novel"]


def test_the_drawing_in_contributing_is_that_of_the_code():
    done = subprocess.run([sys.executable, DOCS / "layers.py", "--check"], capture_output=True, text=True, check=False)
    assert done.stderr == ""


@pytest.mark.parametrize("folder", ["engine", "data"])
def test_no_method_by_name(folder):
    for file in (layers.ROOT / folder).rglob("*.py"):
        words = {n.value for n in ast.walk(ast.parse(file.read_text("utf-8"))) if isinstance(n, ast.Constant)}
        others = {"barm", "star"} if file.name == "shapes.py" else {"barm"}  # the package, and a shape
        assert not words & (set(METHODS) - others), f"{file} names a method"
        assert not any("barm.methods.barm" in str(w) for w in words)


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(layers.ROOT)))
def test_sizes(file):
    text = file.read_text("utf-8")
    assert text.count("\n") <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            doc = (ast.get_docstring(node) or "").count("\n")
            size = (node.end_lineno or node.lineno) - node.lineno + 1 - doc
            assert size <= 60, f"{node.name} has {size} lines"
