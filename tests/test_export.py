"""Exported files predict what PyTorch predicts, and say about themselves what a user of theirs needs."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import barm
from barm.data.shapes import render
from barm.engine.recipe import RuntimeConfig
from barm.engine.runtime import Runtime
from barm.export import export
from barm.export.agreement import compare
from barm.export.formats import FORMATS
from barm.labels import Step
from barm.methods import METHODS
from barm.models.network import NetworkConfig
from barm.trained import Trained, open_trained

ROOT = Path(__file__).parents[1]
SIZES = [(48 + 13 * i, 160 - 5 * i) for i in range(20)]
EASY = ("base.epochs=8", "increment.epochs=2", "base.crop=48", "increment.crop=48")


@pytest.fixture(scope="module")
def exact():
    """fp32 on the processor, as exported files compute."""
    return Runtime(RuntimeConfig(device="cpu", precision="32-true"))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """20 generated pictures of different sizes, as files without losses."""
    folder = tmp_path_factory.mktemp("pictures")
    for i, size in enumerate(SIZES):
        scene = render(i, split="val", num_classes=4, size=size, seed=3)
        Image.fromarray(scene.image).save(folder / f"{i:02d}.png")
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def run(shapes_voc, tmp_path_factory):
    """BARM in three steps, trained for seconds: enough for labels that are not all one class."""
    out = tmp_path_factory.mktemp("runs") / "barm"
    overrides = [*TINY, "base.epochs=12", "increment.epochs=4", "model.output_stride=8", "model.rates=[1,2,4]"]
    barm.fit("shapes/2-1/barm", out=out, data=shapes_voc, overrides=overrides, quiet=True)
    return out


def words(text: str, *expected: str) -> None:
    assert text.count("\n") <= 1
    for word in expected:
        assert word in text, text


def test_the_example_draws_pytorch_s_labels(run, pictures, exact, cli, tmp_path):
    """Acceptance: the ONNX file under onnxruntime, through examples/onnx_predict.py, on 20 sizes."""
    status, out, _ = cli("export", run, "--format", "onnx", "--out", "deep/barm.onnx")
    assert status == 0
    assert "100.000 % of the labels equal PyTorch's" in out
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["barm.onnx"]
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, ROOT / "examples/onnx_predict.py", "deep/barm.onnx", *pictures]
    said = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=True).stdout
    model = barm.load(run, runtime=exact)
    equal, total, seen = 0, 0, set()
    for path in pictures:
        mask, labels = Image.open(tmp_path / f"{path.stem}_mask.png"), model.predict(Image.open(path))
        assert mask.mode == "P"
        assert mask.getpalette()[: 3 * len(model.colours)] == model.colours.flatten().tolist()
        equal, total = equal + int((np.asarray(mask) == labels).sum()), total + labels.size
        seen |= set(labels.flatten().tolist())
    assert len(set(SIZES)) == 20
    assert len(seen) >= 3, seen
    assert equal / total >= 0.999
    assert all(model.class_names[c] in said for c in seen if c)
