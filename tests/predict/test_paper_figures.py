"""`barm figure`: predictions by run and step, and what BARM's background is made of."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import barm
from barm.api import fit
from barm.cli import app
from barm.engine.checkpoint.differences import to_table
from barm.engine.checkpoint.directory import RunDirectory
from barm.engine.config import RunConfig
from barm.errors import UserError
from barm.predict import paper_figures


@pytest.fixture(scope="module")
def runs(tiny_run, tmp_path_factory) -> dict[str, Path]:
    """A run of barm and one of fine-tuning, of one task of three steps."""
    table = to_table(RunDirectory(tiny_run).config())
    out = tmp_path_factory.mktemp("runs") / "finetune"
    config = RunConfig.model_validate({**table, "method": {"name": "finetune"}})
    fit(config, out=out, quiet=True)
    return {"barm": tiny_run, "finetune": out}


@pytest.fixture
def photo(tmp_path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.fixture
def drawn(monkeypatch):
    """The panels of the last figure: titles and the number of images by row and column."""
    kept = {}
    close = plt.close

    def keep(figure):
        kept["titles"] = [ax.get_title() for ax in figure.axes if ax.get_title()]
        kept["labels"] = [ax.get_ylabel() for ax in figure.axes if ax.get_ylabel()]
        kept["panels"] = [ax.images[0].get_array() for ax in figure.axes if ax.images]
        close(figure)

    monkeypatch.setattr(plt, "close", keep)
    return kept


def test_a_row_per_run_and_a_column_per_step(runs, photo, tmp_path, drawn):
    target = barm.figure("qualitative", list(runs.values()), [photo], tmp_path / "new" / "figure.png")
    assert Image.open(target).size[0] > 300
    assert drawn["titles"] == ["image", "step 0", "step 1", "step 2"]
    assert drawn["labels"] == ["barm", "finetune"]
    assert len(drawn["panels"]) == 1 + 2 * 3  # the image once
    label = barm.load(runs["finetune"], 2).predict(barm.read_image(photo))
    expected = barm.overlay(np.asarray(barm.read_image(photo)), label, barm.load(runs["finetune"], 2).display_colours)
    assert np.array_equal(drawn["panels"][-1], expected)


def test_the_parts_of_the_background(runs, photo, tmp_path, drawn):
    barm.figure("background", [runs["barm"]], [photo], tmp_path / "figure.pdf")
    assert drawn["titles"] == [
        "image",
        "background, step 0",
        "residual, step 1",
        "residual, step 2",
        "sum, as probability",
    ]
    model = barm.load(runs["barm"])
    parts = model.background(barm.read_image(photo))
    assert parts.shape == (3, 48, 64)
    assert parts[1:].max() <= 0
    assert np.allclose(drawn["panels"][4], 1 / (1 + np.exp(-parts.sum(0))))
    assert np.allclose(model.scores(barm.read_image(photo))[0].mean(), drawn["panels"][4].mean(), atol=0.05)


@pytest.mark.parametrize(
    ("kind", "chosen", "out", "line"),
    [
        ("background", ["finetune"], "f.png", "finetune has no residuals of the background: give a run of barm"),
        ("qualitative", [], "f.png", "give at least one run and one image"),
        ("qualitative", ["barm"], "f.txt", "f.txt is no image: expected a name that ends in .png, .pdf or .svg"),
        ("other", ["barm"], "f.png", "unknown figure 'other': expected qualitative or background"),
    ],
)
def test_what_cannot_be_drawn(kind, chosen, out, line, runs, photo, tmp_path):
    with pytest.raises(UserError, match=line):
        barm.figure(kind, [runs[name] for name in chosen], [photo], tmp_path / out)
    assert not (tmp_path / out).exists()


def test_runs_of_several_tasks(runs, photo, tmp_path, monkeypatch):
    names = iter(["3-1 overlap", "2-1 overlap"])
    monkeypatch.setattr(paper_figures, "task_name", lambda config: next(names))
    with pytest.raises(UserError, match=r"learned the task '3-1 overlap', .* '2-1 overlap': give runs of one task"):
        barm.figure("qualitative", list(runs.values()), [photo], tmp_path / "figure.png")


def test_the_command_tells_runs_from_images(runs, photo, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["figure", "background", str(runs["barm"]), "photo.png"])
    assert (result.exit_code, result.output.strip()) == (0, "figure.png")
