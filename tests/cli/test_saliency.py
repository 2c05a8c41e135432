"""``barm data saliency``: what is printed, and one line for what does not work."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, save
from PIL import Image

from barm.data.sources.shapes_disk import make_shapes


@pytest.fixture
def folder(tmp_path):
    make_shapes(tmp_path / "own", num_classes=3, num_train=4, num_val=2, size=(48, 32), seed=1)
    return tmp_path / "own"


@pytest.fixture
def red(tmp_path):
    """A network whose first output is 0 everywhere, whose second is 1 where red is 1."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, 1, 16, 16)) for name in ("none", "red")]
    start = helper.make_tensor_value_info("image", TensorProto.FLOAT, (1, 3, 16, 16))
    kernels = [
        numpy_helper.from_array(np.array(row, np.float32).reshape(1, 3, 1, 1), name)
        for name, row in (("k0", [0, 0, 0]), ("k1", [1, 0, 0]))
    ]
    nodes = [helper.make_node("Conv", ["image", f"k{i}"], [end.name]) for i, end in enumerate(ends)]
    graph = helper.make_graph(nodes, "net", [start], ends, kernels)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), tmp_path / "red.onnx")
    return tmp_path / "red.onnx"


def test_the_line_says_what_made_how_many(cli, folder):
    status, out, _ = cli("data", "saliency", "own")
    assert status == 0
    assert out.startswith("own/saliency/train: 4 saliency maps made; OpenCV fine-grained saliency ")
    assert cli("data", "saliency", "own")[1].startswith("own/saliency/train: 0 saliency maps made, 4 kept; OpenCV")
    assert cli("data", "saliency", "own", "--split", "val")[1].startswith("own/saliency/val: 2 saliency maps made; ")


def test_a_network_with_all_its_options(cli, folder, red):
    for path in (folder / "images/train").glob("*.jpg"):
        Image.new("RGB", (48, 32), (0, 0, 250)).save(path, quality=95)
    words = ["--model", red, "--input-size", "16x16", "--mean", "0,0,0", "--std", "255,255,255", "--scale", "1"]
    words += ["--channels", "bgr", "--output", "red", "--activation", "none", "--threshold", "0.9"]
    status, out, err = cli("data", "saliency", "own", *words)
    assert (status, err) == (0, "")
    assert ", 16x16, threshold 0.9\n" in out
    made = [np.asarray(Image.open(path)) for path in (folder / "saliency/train").glob("*.png")]
    assert len(made) == 4
    assert all((values == 255).all() for values in made)
    record = json.loads((folder / "saliency/train/saliency.json").read_text())
    assert record["file"] == "red.onnx"
    assert record["settings"]["mean"] == "0, 0, 0"
    assert cli("data", "saliency", "own", *words, "--output", "none", "--overwrite")[0] == 0
    assert not any(np.asarray(Image.open(path)).any() for path in (folder / "saliency/train").glob("*.png"))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--mean", "1,2,3"], "--mean describes a network: give its file with --model"),
        (["--input-size", "native"], "--input-size describes a network"),
        (["--model", "red.onnx", "--mean", "1,2"], "--mean expects three numbers"),
        (["--model", "red.onnx", "--std", "1,0,1"], "--std expects three numbers other than 0"),
        (["--model", "red.onnx", "--std", "1,x,1"], "--std expects numbers separated by commas"),
        (["--model", "red.onnx", "--input-size", "16x"], "--input-size expects <width>x<height>"),
        (["--model", "red.onnx", "--input-size", "0"], "--input-size expects <width>x<height>"),
        (["--model", "red.onnx", "--input-size", "32"], "takes images of 16x16, not 32x32"),
        (["--model", "red.onnx", "--output", "mask"], "has the outputs 'none', 'red', not 'mask'"),
        (["--model", "own/classes.txt"], "ends in '.txt', expected .onnx or .pt2"),
        (["--model", "none.onnx"], "no file none.onnx"),
        (["--threshold", "0"], "--threshold expects a number above 0 and at most 1, or otsu, got '0'"),
        (["--threshold", "nan"], "--threshold expects a number above 0"),
    ],
)
def test_what_does_not_work_is_one_line_and_nothing_is_written(cli, folder, red, words, says):
    status, _, err = cli("data", "saliency", "own", *words)
    assert status == 2
    assert err.startswith("barm: ")
    assert err.count("\n") == 1
    assert says in err
    assert not (folder / "saliency").exists()


def test_without_opencv_the_line_names_the_extra(cli, folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    status, _, err = cli("data", "saliency", "own")
    assert status == 2
    assert "pip install 'barm-seg[saliency]'" in err
    assert not (folder / "saliency").exists()


def test_torch_is_not_loaded(folder):
    program = "import sys; from barm.cli import app; app(sys.argv[1:], standalone_mode=False)"
    program += "; assert 'torch' not in sys.modules"
    words = [sys.executable, "-c", program, "data", "saliency", str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
