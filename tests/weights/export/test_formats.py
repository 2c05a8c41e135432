"""Exported files predict what PyTorch predicts, and say about themselves what a user of theirs needs."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

import barm
from barm.data.sources.shapes import render
from barm.engine.config import RuntimeConfig
from barm.engine.runtime import Runtime
from barm.labels import Step
from barm.methods import METHODS
from barm.models.segmenter import NetworkConfig
from barm.weights.export.agreement import DIFFERENCE, EQUAL, INFORMATIVE, OWN, RELATIVE
from barm.weights.export.agreement import SIZES as COMPARED
from barm.weights.export.formats import FORMATS, export_step
from barm.weights.export.portable import LEAST_TORCH, Portable
from barm.weights.trained import FORMAT, open_trained

ROOT = Path(__file__).parents[3]
DOCUMENT = (ROOT / "docs/export.md").read_text("utf-8")
TINY = {"backbone": "test_resnet", "channels": 16, "pretrained": False}
NAMES = [name if name == "safetensors" else pytest.param(name, marks=pytest.mark.graph) for name in FORMATS]
SIZES = [(48 + 13 * i, 160 - 5 * i) for i in range(20)]


@pytest.fixture(scope="module")
def exact():
    """fp32 on the processor, as exported files compute."""
    return Runtime(RuntimeConfig(device="cpu", precision="32-true"))


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """20 generated images of different sizes, as files without losses."""
    folder = tmp_path_factory.mktemp("images")
    for i, size in enumerate(SIZES):
        scene = render(i, split="val", num_classes=4, size=size, seed=3)
        Image.fromarray(scene.image).save(folder / f"{i:02d}.png")
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def files(run, tmp_path_factory):
    """The run's last step in every format that this torch can write, and what the comparison found."""
    folder = tmp_path_factory.mktemp("files")
    paths = {
        name: folder / name / f"barm{ending}"
        for name, (ending, _) in FORMATS.items()
        if name == "safetensors" or torch.__version__ >= LEAST_TORCH
    }
    return {name: (path, export_step(run, path)) for name, path in paths.items()}


@pytest.mark.graph
def test_the_example_draws_pytorch_s_labels(run, files, images, exact, tmp_path):
    """Acceptance: the ONNX file under onnxruntime, through examples/onnx_predict.py, on 20 sizes."""
    shutil.copytree(files["onnx"][0].parent, tmp_path / "deep")
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, ROOT / "examples/onnx_predict.py", "deep/barm.onnx", *images]
    said = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=True).stdout
    model = barm.load(run, runtime=exact)
    equal, total, seen = 0, 0, set()
    for path in images:
        mask, labels = Image.open(tmp_path / f"{path.stem}_mask.png"), model.predict(Image.open(path))
        assert mask.mode == "P"
        assert mask.getpalette()[: 3 * len(model.colours)] == model.colours.flatten().tolist()
        equal, total = equal + int((np.asarray(mask) == labels).sum()), total + labels.size
        seen |= set(labels.flatten().tolist())
    assert len(set(SIZES)) == 20
    assert len(seen) >= 3, seen
    assert equal / total >= 0.999
    assert all(model.class_names[c] in said for c in seen if c)


def test_what_the_command_says(run, cli, tmp_path):
    status, out, _ = cli("export", run, "--format", "safetensors", "--out", "deep/any.name")
    assert status == 0
    assert "100.000 % of the labels equal PyTorch's" in out
    assert "6 of them the run's own validation images" in out
    assert re.search(r"scores from 0\.\d\d to \d\.\d\d differ by at most \d\.\de[-+]\d\d \(\d\S* % of the score\)", out)
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["any.name"]


def described(name: str, path: Path) -> dict[str, Any]:
    """What a file says about itself, read with the format's own library."""
    if name == "onnx":
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return json.loads(session.get_modelmeta().custom_metadata_map["barm"])
    if name == "torch-export":
        extra = {"metadata.json": ""}
        torch.export.load(path, extra_files=extra)
        return json.loads(extra["metadata.json"])
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["barm"])


def contents(path: Path) -> bytes:
    """All bytes of a file, those of an archive unpacked."""
    if not zipfile.is_zipfile(path):
        return path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        return b"".join(archive.read(n) for n in archive.namelist())


@pytest.mark.parametrize("name", NAMES)
def test_what_a_file_says_about_itself(name, run, files):
    """docs/export.md: the table of keys, the description's place, no path of this machine."""
    path, _ = files[name]
    about, model = described(name, path), barm.load(run)
    assert (about["class_names"], about["class_names"][0]) == (list(model.class_names), "background")
    assert about["colours"] == model.colours.tolist()
    assert [n for group in about["learned"] for n in group] == about["class_names"][1:]
    assert [len(group) for group in about["learned"]] == [2, 1, 1]
    assert (about["method"], about["backbone"], about["step"], about["num_steps"]) == ("barm", "test_resnet", 2, 3)
    assert (about["barm"], about["format"]) == (barm.__version__, FORMAT)
    assert {"git", "seed", "task"} <= set(about["provenance"])
    assert {"mean", "std"} <= set(about["normalisation"])
    expected = {"name": "image", "dtype": "uint8", "shape": ["batch", "height", "width", 3], "least_side": 32}
    assert expected.items() <= about["input"].items()
    assert {k: v["dtype"] for k, v in about["outputs"].items()} == {"labels": "uint8", "confidence": "float32"}
    found = contents(path)
    for secret in (str(run.parent), str(ROOT), str(Path.home()), sys.prefix):
        assert secret.encode() not in found
    keys = re.findall(r"^\| (`.+?`) \|", DOCUMENT, re.MULTILINE)
    named = {key for row in keys for key in re.findall(r"`(\w+)`", row)} - set(FORMATS)
    assert len(named) == 13
    assert named <= set(about)


@pytest.mark.graph
def test_what_the_onnx_file_holds(files):
    """docs/export.md: opset, names, types and shapes; the whole way in fp32, without batch norm."""
    model = onnx.load(files["onnx"][0])
    onnx.checker.check_model(model)
    assert f"(opset {model.opset_import[0].version})" in DOCUMENT
    session = onnxruntime.InferenceSession(files["onnx"][0], providers=["CPUExecutionProvider"])
    sides = ["batch", "height", "width"]
    assert [(i.name, i.type, i.shape) for i in session.get_inputs()] == [("image", "tensor(uint8)", [*sides, 3])]
    assert [(o.name, o.type, o.shape) for o in session.get_outputs()] == [
        ("labels", "tensor(uint8)", sides),
        ("confidence", "tensor(float)", sides),
    ]
    operations = Counter(node.op_type for node in model.graph.node)
    assert "BatchNormalization" not in operations
    assert {"Conv", "Resize", "ArgMax"} <= set(operations)
    floats = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE}
    assert {i.data_type for i in model.graph.initializer} & floats == {onnx.TensorProto.FLOAT}


@pytest.mark.graph
def test_what_the_torch_export_file_holds(files):
    """The same, with torch alone."""
    program = torch.export.load(files["torch-export"][0])
    operations = Counter(str(n.target) for n in program.graph.nodes if n.op == "call_function")
    assert not [name for name in operations if "batch_norm" in name]
    assert operations["aten.conv2d.default"] > 20
    assert {t.dtype for t in program.state_dict.values() if t.is_floating_point()} == {torch.float32}
    labels, confidence = program.module()(torch.zeros(3, 33, 47, 3, dtype=torch.uint8))
    assert (labels.dtype, tuple(labels.shape)) == (torch.uint8, (3, 33, 47))
    assert (confidence.dtype, tuple(confidence.shape)) == (torch.float32, (3, 33, 47))


def test_what_the_safetensors_file_holds(run, files):
    """The weights as they were trained, for any reader."""
    found = load_file(files["safetensors"][0])
    trained = load_file(run / "step02/model.safetensors")
    assert found.keys() == trained.keys()
    assert all(torch.equal(found[n], t) and found[n].dtype == t.dtype for n, t in trained.items())
    assert any("running_var" in n for n in found)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_compared_before_it_is_written(name, files):
    """docs/export.md: own images, six sizes, several batch sizes, generated images and noise, and all limits."""
    _, found = files[name]
    assert found.sizes == len(set(COMPARED)) == 6
    assert len({batch for batch, _, _ in COMPARED}) > 1
    limits = f"Below {100 * EQUAL} % of equal labels, or where a score differs by more than {DIFFERENCE} or "
    assert f"{limits}{100 * RELATIVE:.0f} % of itself" in " ".join(DOCUMENT.split())
    assert found.own == OWN
    assert found.classes >= INFORMATIVE
    assert found.equal >= EQUAL
    assert found.difference <= DIFFERENCE
    assert found.relative <= RELATIVE
    assert found.scores[1] - found.scores[0] > 0.2  # scores vary


@pytest.mark.parametrize("name", sorted(METHODS))
def test_batch_norm_is_folded_for_every_method(name):
    method = METHODS[name]().build(Step(2, ((1, 2), (3,), (4,))), NetworkConfig(**TINY))
    network = method.build_model()
    portable = Portable(network, method)
    assert sum(isinstance(m, nn.BatchNorm2d) for m in network.modules()) > 10
    assert not any(isinstance(m, nn.BatchNorm2d) for m in portable.modules())


def test_what_onnx_needs():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert [re.split("[>=]", word)[0] for word in extras["export"]] == ["onnx", "onnxruntime", "onnxscript", "torch"]
    assert f"torch>={LEAST_TORCH}" in extras["export"]
    assert f"needs torch {LEAST_TORCH} or newer" in DOCUMENT
    assert "ONNX needs three more packages: `pip install 'barm-seg[export]'`, or `pip install '.[export]'`" in DOCUMENT
    assert any("export" in word for word in extras["dev"])  # which `make demo` installs


def test_safetensors_is_a_model(run, exact, cli, tmp_path):
    """A file of one step is loaded like a run, and can be exported again."""
    status, out, _ = cli("export", run, "--out", "one.safetensors", "--step", 1)
    assert status == 0
    assert "differ by at most 0.0e+00" in out
    model, same = barm.load(tmp_path / "one.safetensors", runtime=exact), barm.load(run, 1, exact)
    image = Image.fromarray(render(0, split="val", num_classes=4, size=(70, 50), seed=3).image)
    np.testing.assert_array_equal(model.predict(image), same.predict(image))
    assert (model.class_names, model.step) == (same.class_names, 1)
    np.testing.assert_array_equal(model.colours, same.colours)
    assert cli("export", "one.safetensors", "--out", "two.safetensors", "--quiet")[0] == 0
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "two.safetensors").read_bytes()
    text = (tmp_path / "one.safetensors").read_bytes()[:9000].decode("utf-8", "ignore")
    assert str(run.parent) not in text


def one_line(call: tuple[int, str, str], *words: str) -> None:
    status, _, err = call
    line = err.strip().splitlines()[-1]
    assert status == 2
    assert line.startswith("barm: ")
    for word in words:
        assert word in line, line


def other_labels(labels, confidence):
    """Two of a thousand pixels."""
    changed = labels.reshape(-1).copy()
    changed[::500] ^= 1
    return changed.reshape(labels.shape), confidence


def other_confidences(labels, confidence):
    """Just beyond the limit, at one pixel."""
    changed = confidence.copy()
    changed[0, 0, 0] += 1.1e-3
    return labels, changed


@pytest.mark.graph
def test_the_command_says_what_it_does(run, cli):
    status, _, err = cli("export", run, "--format", "onnx", "--out", "barm.onnx")
    assert status == 0
    stages = ("tracing the network", "turning the graph into ONNX", "reading it back", "comparing it with PyTorch")
    lines = err.splitlines()
    assert [line for line in lines if line in stages] == list(stages)
    assert re.match(r"making the onnx file of step 2 \(barm, test_resnet, \d+ convolutions\)", lines[0])


def test_a_stage_has_a_limit(run, tmp_path, monkeypatch):
    monkeypatch.setattr("barm.weights.export.formats.trace", lambda _: [time.sleep(0.01) for _ in range(3000)])
    began = time.monotonic()
    with pytest.raises(barm.UserError, match=r"tracing the network took longer than 0 s: try --format safetensors"):
        export_step(run, tmp_path / "x.onnx", limit=0.2)
    assert time.monotonic() - began < 10
    assert not (tmp_path / "x.onnx").exists()


@pytest.mark.parametrize("change", [other_labels, other_confidences])
def test_what_does_not_agree_is_not_written(change, run, cli, tmp_path, monkeypatch):
    """Both limits of docs/export.md."""

    def wrong(trained, _):
        made = FORMATS["safetensors"][1](trained)
        return made._replace(predict=lambda image: change(*made.predict(image)))

    monkeypatch.setitem(FORMATS, "onnx", (".onnx", wrong))
    one_line(cli("export", run, "--out", "deep/x.onnx"), "does not agree with PyTorch", "nothing was written")
    assert not any(tmp_path.iterdir())


def test_errors(run, cli, tmp_path, monkeypatch):
    one_line(cli("export", run, "--out", "model.bin"), "which format is model.bin", ".pt2 (torch-export)")
    one_line(cli("export", run, "--out", str(run), "--format", "onnx"), "is a folder")
    one_line(cli("export", run, "--out", "x.onnx", "--step", 9), "no finished step 9")
    one_line(cli("export", "nothing", "--out", "x.onnx"), "nothing is not a run")
    (tmp_path / "photo.safetensors").write_bytes(b"no")
    one_line(cli("export", "photo.safetensors", "--out", "x.onnx"), "no safetensors file although")
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    one_line(cli("export", "other.safetensors", "--out", "x.onnx"), "1 tensor of a network that barm does not know")
    real = importlib.util.find_spec
    monkeypatch.setattr(
        "barm.weights.export.formats.find_spec", lambda name: None if name == "onnxscript" else real(name)
    )
    one_line(cli("export", run, "--out", "x.onnx"), "onnxscript", "pip install 'barm-seg[export]'")
    assert not (tmp_path / "x.onnx").exists()
    assert open_trained(run).method.step.index == 2
