"""The examples of docs/python.md run as they stand there, on fewer and smaller images; its table is complete."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image

import barm
from barm.cli import app

PAGE = (Path(__file__).parents[2] / "docs/python.md").read_text("utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
SHORTER = {
    "num_train=1000, num_val=100": "num_train=24, num_val=6, size=(64, 64)",
    "Discs(200, seed=0), Discs(40, seed=1)": "Discs(16, seed=0), Discs(4, seed=1)",
    "base.epochs=6": "base.epochs=2",
    "increment.epochs=3": "increment.epochs=1",
    "overrides=[": "overrides=[*TINY, ",
    "overrides = [": "overrides = [*TINY, ",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("examples")


@pytest.mark.parametrize("number", range(1, 6))
def test_example(number, folder, tiny_settings, monkeypatch, capsys):
    """In order: the later ones use what the first has trained."""
    if number != 3 and number > 1 and not (folder / "runs/own/step02").is_dir():
        pytest.skip("the first example has not run")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    program = BLOCKS[number - 1]
    for long, short in SHORTER.items():
        program = program.replace(long, short)
    known = set(barm.METHODS)
    try:
        code = compile(program, f"example {number}", "exec", dont_inherit=True)
        exec(code, {"__name__": f"example{number}", "TINY": tiny_settings})
    finally:
        for name in set(barm.METHODS) - known:
            del barm.METHODS[name]
    LOOK[number](folder, capsys.readouterr().out)


def look_at_training(folder: Path, out: str) -> None:
    assert len(re.findall(r"step \d learned .*: mIoU 0\.\d{3}", out)) == 3
    assert "barm 0.05" in out


def look_at_prediction(folder: Path, out: str) -> None:
    assert "of the image, at most" in out
    assert Image.open(folder / "overlay.png").size == (64, 64)
    assert "6 masks in seen/" in out
    values = {v for p in (folder / "seen").glob("*_mask.png") for v in np.unique(np.asarray(Image.open(p)))}
    assert values <= {0, 1}


def look_at_source(folder: Path, out: str) -> None:
    assert all(name in out for name in ("red", "green", "blue", "old"))


def look_at_chart(folder: Path, out: str) -> None:
    assert Image.open(folder / "classes.png").size == (1320, 540)


def look_at_loss(folder: Path, out: str) -> None:
    assert ",smooth," in (folder / "runs/smooth/log.csv").read_text()
    assert re.search(r"2-1 overlap +barm: mIoU \d", out)
    assert re.search(r"3-1 overlap +smooth: mIoU \d", out)


LOOK = {1: look_at_training, 2: look_at_prediction, 3: look_at_source, 4: look_at_chart, 5: look_at_loss}


def leaves(group, path=("barm",)):
    for name, command in group.commands.items():
        yield from leaves(command, (*path, name)) if hasattr(command, "commands") else [" ".join((*path, name))]


def test_every_command_has_its_function():
    rows = dict(re.findall(r"^\| `(barm [a-z -]+)` \| (.*) \|$", PAGE, re.MULTILINE))
    assert set(rows) == set(leaves(typer.main.get_command(app))), "docs/python.md has a row for every command"
    for name in re.findall(r"`barm\.(\w+)[`.(]", " ".join(rows.values())):
        assert getattr(barm, name, None) or __import__(f"barm.{name}"), name


def test_public_names():
    assert set(barm.__all__) == {*barm._HOMES, "__version__"}
    for name in barm.__all__:
        value = getattr(barm, name)
        assert name == "METHODS" or isinstance(value, str) or value.__doc__, f"barm.{name} has no docstring"
    assert set(barm.__all__) <= set(dir(barm))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = barm.nothing


def test_what_takes_a_path_takes_its_name():
    functions = [f for f in (getattr(barm, name) for name in barm.__all__) if inspect.isfunction(f)]
    assert barm.write_report in functions
    for function in functions:
        for name, parameter in inspect.signature(function).parameters.items():
            kinds = re.findall(r"\w+", str(parameter.annotation))
            assert "Path" not in kinds or "str" in kinds, f"barm.{function.__name__} takes no str as {name}"
