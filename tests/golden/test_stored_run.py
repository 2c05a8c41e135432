"""A run that an earlier version made is read, evaluated, resumed and extended.

`data/run_before_the_house.tar.xz` was made by commit fe56a95 with `fit("shapes/2-1/barm", data="data", steps=[0])` and
the settings that its config.toml shows, on the images that `data` below draws again.
"""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest

from barm.api import evaluate, fit, read_config
from barm.data.sources.shapes_disk import make_shapes
from barm.engine.checkpoint.directory import METRICS, RunDirectory
from barm.extension.run import extend
from barm.predict.model import load
from barm.report.history import read_run

ARCHIVE = Path(__file__).parent / "data/run_before_the_house.tar.xz"


@pytest.fixture
def run(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)  # the run names its data as a folder beside it
    make_shapes(tmp_path / "data", layout="voc", num_classes=4, num_train=24, num_val=6, size=(48, 48), seed=3)
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "run"


def test_it_is_read_and_measured_as_it_was(run):
    stored = RunDirectory(run).read(0, METRICS)
    assert evaluate(run, 0, quiet=True) == stored
    assert read_run(run, "run").scores
    labels = load(run).predict(np.zeros((48, 48, 3), np.uint8))
    assert labels.shape == (48, 48)


def test_it_goes_on(run):
    metrics = fit(read_config(run), out=run, resume=True, quiet=True)
    assert [m["step"] for m in metrics] == [0, 1, 2]
    assert metrics[0] == RunDirectory(run).read(0, METRICS)


def test_it_is_extended(run, tmp_path):
    known = load(run).class_names
    taught = next(c for c in (tmp_path / "data/classes.txt").read_text("utf-8").split() if c not in known)
    extend(
        run, tmp_path / "data", [taught], step=0, out=tmp_path / "more", overrides=["increment.epochs=1"], quiet=True
    )
    assert load(tmp_path / "more").class_names == (*known, taught)
