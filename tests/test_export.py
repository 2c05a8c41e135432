"""Exported files predict what PyTorch predicts, and say about themselves what a user of theirs needs."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import barm
from barm.data.shapes import render
from barm.data.shapes_disk import make_shapes
from barm.engine.recipe import RuntimeConfig
from barm.engine.runtime import Runtime
from barm.export import agreement
from barm.export.agreement import compare
from barm.export.formats import FORMATS
from barm.labels import Step
from barm.methods import METHODS
from barm.models.network import NetworkConfig
from barm.trained import Trained, open_trained

ROOT = Path(__file__).parents[1]
SIZES = [(48 + 13 * i, 160 - 5 * i) for i in range(20)]
SMALL = (
    "model.backbone=test_resnet",
    "model.channels=32",
    "model.output_stride=16",
    "model.rates=[1,2,4]",
    "base.epochs=4",
    "base.batch_size=8",
    "base.crop=48",
    "increment.epochs=1",
    "increment.batch_size=8",
    "increment.crop=48",
    "evaluation.crop=48",
    "runtime.workers=0",
    "runtime.precision=32-true",
    "runtime.device=cpu",
    "runtime.tensorboard=false",
)


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
def run(tmp_path_factory):
    """BARM in three steps, trained for seconds: enough for labels that are not all one class."""
    folder = tmp_path_factory.mktemp("export")
    make_shapes(folder / "data", layout="voc", num_classes=4, num_train=240, num_val=6, size=(48, 48), seed=3)
    barm.fit("shapes/2-1/barm", out=folder / "barm", data=folder / "data", overrides=SMALL, quiet=True)
    return folder / "barm"


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


def test_safetensors_is_a_model(run, exact, cli, tmp_path):
    """A file of one step is loaded like a run, and can be exported again."""
    status, out, _ = cli("export", run, "--out", "one.safetensors", "--step", 1)
    assert status == 0
    assert "differ by at most 0.0e+00" in out
    model, same = barm.load(tmp_path / "one.safetensors", runtime=exact), barm.load(run, 1, exact)
    picture = Image.fromarray(render(0, split="val", num_classes=4, size=(70, 50), seed=3).image)
    np.testing.assert_array_equal(model.predict(picture), same.predict(picture))
    assert (model.class_names, model.step) == (same.class_names, 1)
    np.testing.assert_array_equal(model.colours, same.colours)
    assert cli("export", "one.safetensors", "--out", "two.safetensors", "--quiet")[0] == 0
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "two.safetensors").read_bytes()
    text = (tmp_path / "one.safetensors").read_bytes()[:9000].decode("utf-8", "ignore")
    assert str(run.parent) not in text


def tiny(name: str, **options) -> Trained:
    """A network with random weights and the statistics of pictures; its labels are not all one class."""
    torch.manual_seed(0)
    config = NetworkConfig(**{"backbone": "test_resnet", "channels": 16, "pretrained": False, **options})
    step = Step(2, ((1, 2), (3,), (4,)))
    method = METHODS[name]().build(step, config)
    network = method.build_model().train()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        for image in list(agreement._batches(4))[1:3]:
            network(torch.from_numpy(image.transpose(0, 3, 1, 2)) / 64.0 - 2)
    about = {
        "method": method._base.model_dump(mode="json"),
        "model": config.model_dump(mode="json"),
        "groups": step.groups,
        "num_steps": 3,
        "classes": [{"id": i, "name": f"class {i}", "colour": [i, i, i]} for i in range(5)],
    }
    return Trained(network.eval(), method, about, RuntimeConfig(), {})


class Stem(nn.Module):
    """The least that looks like a backbone."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 7, stride=8, padding=3)

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        """``(N, 3, H, W)`` -> features at stride 8."""
        return [self.conv(image).relu()]


@pytest.mark.parametrize("name", ["finetune", "mib", "dkd", "ssul"])
def test_every_rule_of_prediction(name):
    """As ONNX, with the real classifier on a stand-in for the backbone; BARM's is in the run."""
    trained = tiny(name)
    channels = trained.network.backbone.feature_info.channels()[-1]
    trained.network.backbone = Stem(channels)
    found = compare(trained, FORMATS["onnx"][1](trained).predict, name)
    assert found.classes >= 2, found
    assert found.equal >= 0.999


def test_a_body_with_a_window_of_any_size(tmp_path):
    """MiB's and PLOP's body, whose pooling depends on the picture's size, with torch alone."""
    trained = tiny("plop", decoder="added_pool", activation="leaky_relu", output_stride=8)
    made = FORMATS["torch-export"][1](trained)
    found = compare(trained, made.predict, "the file")
    assert found.classes >= 2
    (tmp_path / "plop.pt2").write_bytes(made.content)
    code = """
import json, sys, torch
extra = {"metadata.json": ""}
model = torch.export.load("plop.pt2", extra_files=extra).module()
labels, confidence = model(torch.zeros(1, 50, 61, 3, dtype=torch.uint8))
assert "barm" not in sys.modules
print(json.dumps([list(labels.shape), json.loads(extra["metadata.json"])["class_names"]]))
"""
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    said = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, check=True).stdout
    assert json.loads(said) == [[1, 50, 61], [f"class {i}" for i in range(5)]]


def one_line(call: tuple[int, str, str], *words: str) -> None:
    status, _, err = call
    line = err.strip().splitlines()[-1]
    assert status == 2
    assert line.startswith("barm: ")
    for word in words:
        assert word in line, line


def test_what_does_not_agree_is_not_written(run, cli, tmp_path, monkeypatch):
    def wrong(trained):
        made = FORMATS["safetensors"][1](trained)
        return made._replace(predict=lambda image: (made.predict(image)[0] * 0, made.predict(image)[1]))

    monkeypatch.setitem(FORMATS, "onnx", (".onnx", wrong))
    one_line(cli("export", run, "--out", "deep/x.onnx"), "does not agree with PyTorch", "nothing was written")
    assert not any(tmp_path.iterdir())


def test_errors(run, cli, tmp_path, monkeypatch):
    one_line(cli("export", run, "--out", "model.bin"), "which format is model.bin", ".pt2 (torch-export)")
    one_line(cli("export", run, "--out", str(run), "--format", "onnx"), "is a folder")
    one_line(cli("export", run, "--out", "x.onnx", "--step", 9), "no finished step 9")
    one_line(cli("export", "nothing", "--out", "x.onnx"), "nothing is not a run")
    (tmp_path / "photo.safetensors").write_bytes(b"no")
    one_line(cli("export", "photo.safetensors", "--out", "x.onnx"), "cannot be read as safetensors")
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    one_line(cli("export", "other.safetensors", "--out", "x.onnx"), "is no model of barm")
    real = importlib.util.find_spec
    monkeypatch.setattr("barm.export.formats.find_spec", lambda name: None if name == "onnxscript" else real(name))
    one_line(cli("export", run, "--out", "x.onnx"), "onnxscript", "pip install 'barm[export]'")
    assert not (tmp_path / "x.onnx").exists()
    assert open_trained(run).method.step.index == 2
