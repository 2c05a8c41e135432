"""The worked example of CONTRIBUTING.md: its blocks, put into a copy of the package, make a method that works."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import barm

ROOT = Path(__file__).parents[2]
FIXTURES = """
import pytest
import torch
from barm.batch import Batch
from barm.labels import Step
from barm.models.heads import PlainOutput
from barm.models.segmenter import NetworkConfig

@pytest.fixture
def two_outputs():
    return PlainOutput(torch.zeros(1, 4, 4, 4), torch.zeros(1, 8, 4, 4), torch.ones(1, 8, 4, 4))

@pytest.fixture
def batch():
    return Batch(torch.zeros(1, 3, 8, 8), torch.zeros(1, 8, 8, dtype=torch.long), {})

@pytest.fixture
def step():
    return Step(1, ((1, 2), (3,)))

@pytest.fixture
def network():
    return NetworkConfig(backbone="test_resnet", pretrained=False)
"""


@pytest.fixture(scope="module")
def blocks() -> list[str]:
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    return re.findall(r"```(?:python|toml)\n(.*?)```", text, re.DOTALL)


@pytest.fixture(scope="module")
def package(blocks, tmp_path_factory) -> Path:
    """A copy of the package with the example in it, and the example's test beside."""
    root = tmp_path_factory.mktemp("contributing")
    copy = root / "src/barm"
    shutil.copytree(Path(barm.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__"))
    method, name, recipe, test = blocks
    (copy / "methods/keep.py").write_text(method)
    (copy / "recipes/shapes/keep.toml").write_text(recipe)
    (root / "test_keep.py").write_text(test)
    (root / "conftest.py").write_text(FIXTURES)
    imports, line = name.splitlines()
    index = copy / "methods/__init__.py"
    text = index.read_text("utf-8").replace("\nMETHODS:", f"{imports}\n\nMETHODS:", 1)
    index.write_text(text.replace("\n}\n", f"\n{line}\n}}\n", 1))
    return root


def run(package: Path, *words: str, cwd: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(package / "src")}
    done = subprocess.run([sys.executable, "-m", *words], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_is_short(blocks):
    assert sum(len(block.splitlines()) for block in blocks) <= 60


def test_its_own_test_passes(package):
    assert "1 passed" in run(package, "pytest", "-q", "-p", "no:cacheprovider", "test_keep.py", cwd=package)


def test_the_contract_tests_and_those_of_the_recipes_pick_it_up(package):
    """Whatever goes through all methods or all recipes."""
    words = ("pytest", "-vv", "-p", "no:cacheprovider", "-p", "no:xdist", "-k", "keep or memories or forgotten")
    shown = run(package, *words, "tests/contract/test_methods.py", "tests/test_recipes.py", cwd=ROOT)
    assert re.search(r"test_methods.py::\w+\[.*keep.*PASSED", shown), shown
    assert re.search(r"test_recipes.py::test_no_recipe_is_forgotten PASSED", shown), shown
    assert "FAILED" not in shown


def test_it_trains_from_its_recipe(package, shapes_voc, tiny_settings, tmp_path):
    overrides = [word for setting in tiny_settings for word in ("--set", setting)]
    words = ["barm.cli", "train", "--recipe", "shapes/3-1/keep", "--data", str(shapes_voc), "--out", "run", "--quiet"]
    run(package, *words, *overrides, cwd=tmp_path)
    header = (tmp_path / "run/log.csv").read_text().splitlines()
    assert any("keep" in line for line in header)
