"""Evaluation in another precision says how far its labels are those of float32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import barm
from barm.api import evaluate, fit
from barm.cli import app
from barm.engine import runtime
from barm.errors import UserError


@pytest.fixture(scope="module")
def run(tmp_path_factory, shapes_voc, tiny_settings) -> Path:
    path = tmp_path_factory.mktemp("evaluate") / "run"
    settings = [*tiny_settings, "evaluation.crop=0"]
    config = barm.load_config("shapes/3-1/barm", settings, {"data": {"root": str(shapes_voc)}})
    fit(config, out=path, quiet=True)
    return path


def test_without_a_precision_nothing_is_compared(run):
    assert not {"computed_in", "agreement"} & set(evaluate(run, quiet=True))


def test_float32_agrees_with_itself(run):
    found = evaluate(run, precision="32-true", quiet=True)
    assert (found["computed_in"], found["agreement"]) == ("float32", 1.0)


def test_the_agreement_is_that_of_the_predicted_labels(run, shapes_voc, monkeypatch):
    monkeypatch.setattr(runtime, "_convolves_bf16", lambda: True)
    found = evaluate(run, precision="bf16-mixed", quiet=True)
    names = (shapes_voc / "ImageSets/Segmentation/val.txt").read_text().split()
    images = [Image.open(shapes_voc / f"JPEGImages/{name}.jpg") for name in names]
    one, other = (
        np.concatenate([label.ravel() for label in barm.load(run, precision=precision).predict(images)])
        for precision in ("bf16-mixed", "32-true")
    )
    assert found["computed_in"] == "bfloat16"
    assert found["agreement"] == pytest.approx(np.mean(one == other), abs=1e-12)
    assert 0.5 < found["agreement"] < 1


def test_the_command_says_it(run):
    done = CliRunner().invoke(app, ["evaluate", str(run), "--precision", "32-true", "--quiet"])
    assert done.exit_code == 0, done.output
    assert "Measured at native size in float32; all of the pixels have the label of float32" in done.stdout


@pytest.mark.parametrize("wrong", [{"precision": "bf16"}, {"device": "tpu"}])
def test_a_wrong_device_or_precision_is_one_line(run, wrong):
    ((key, value),) = wrong.items()
    for call in (evaluate, barm.load):
        with pytest.raises(UserError, match=rf"^{key} is '{value}': Input should be") as error:
            call(run, **wrong)
        assert "\n" not in str(error.value)
