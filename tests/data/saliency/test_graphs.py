"""Networks in files: arrays in, arrays out, and one line for every file that is no saliency network."""

from __future__ import annotations

import builtins
import os

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, save

from barm.data.saliency.graphs import open_graph
from barm.errors import UserError

IMAGE = np.linspace(0, 1, 3 * 8 * 8, dtype=np.float32).reshape(1, 3, 8, 8)


@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.FLOAT16])
def test_an_onnx_file_computes_what_it_holds(onnx_file, kind):
    graph = open_graph(onnx_file(kind=kind, names=("fused", "side")))
    assert (graph.library, graph.size) == ("onnxruntime", (None, None))
    outputs = graph.run(IMAGE)
    assert list(outputs) == ["fused", "side"]
    np.testing.assert_allclose(outputs["fused"], IMAGE.mean(1, keepdims=True), atol=2e-3)


def test_fixed_sides_are_known_before_it_runs(onnx_file):
    assert open_graph(onnx_file(shape=(1, 3, 32, "w"))).size == (32, None)


@pytest.mark.graph
@pytest.mark.parametrize(("form", "names"), [("map", "0"), ("flat", "0"), ("table", "side fused"), ("nested", "0 1")])
def test_an_exported_file_gives_outputs_by_name_or_position(exported_file, form, names):
    graph = open_graph(exported_file(form))
    assert (graph.library, graph.size) == ("torch", (8, 8))
    outputs = graph.run(IMAGE)
    assert list(outputs) == names.split()
    mean = IMAGE.mean(1) if form == "flat" else IMAGE.mean(1, keepdims=True)
    np.testing.assert_allclose(outputs["fused" if form == "table" else "0"], mean, atol=1e-6)


@pytest.mark.graph
def test_another_size_than_the_exported_one_is_one_line(exported_file):
    with pytest.raises(UserError, match=r"net\.pt2: fails on an image of 16x8 .*check --input-size"):
        open_graph(exported_file()).run(np.zeros((1, 3, 8, 16), np.float32))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("net.onnx", "cannot be opened as ONNX"),
        ("net.pt2", "cannot be opened as a torch.export file"),
        ("net.pth", r"ends in '\.pth', expected \.onnx or \.pt2"),
    ],
)
def test_a_file_that_is_no_network_is_one_line(tmp_path, name, says):
    (tmp_path / name).write_bytes(b"no network")
    with pytest.raises(UserError, match=says) as error:
        open_graph(tmp_path / name)
    assert "\n" not in str(error.value)


def test_a_pipe_and_a_missing_file_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "net.onnx")
    with pytest.raises(UserError, match="is a named pipe"):
        open_graph(tmp_path / "net.onnx")
    with pytest.raises(UserError, match=r"no file .*none\.onnx"):
        open_graph(tmp_path / "none.onnx")


@pytest.mark.parametrize("shape", [("n", "h", "w", 3), (4, 3, "h", "w"), (1, 1, "h", "w"), (1, 3, "h")])
def test_another_input_than_one_rgb_image_is_one_line(tmp_path, shape):
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("image", "map")]
    graph = helper.make_graph([helper.make_node("Abs", ["image"], ["map"])], "net", ends[:1], ends[1:])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), tmp_path / "net.onnx")
    with pytest.raises(UserError, match=r"takes an input of shape .*takes one image, \(1, 3, H, W\)"):
        open_graph(tmp_path / "net.onnx")


@pytest.mark.graph
def test_an_exported_network_of_whole_numbers_is_one_line(tmp_path):
    program = torch.export.export(torch.nn.Identity(), (torch.zeros((1, 3, 8, 8), dtype=torch.uint8),))
    torch.export.save(program, tmp_path / "net.pt2")
    with pytest.raises(UserError, match=r"takes torch\.uint8 \[1, 3, 8, 8\]: a saliency network takes one image"):
        open_graph(tmp_path / "net.pt2")


def test_no_onnxruntime_is_one_line_that_names_the_extra(onnx_file, monkeypatch):
    path, original = onnx_file(), builtins.__import__

    def without(name, *more):
        if name == "onnxruntime":
            raise ImportError("No module named 'onnxruntime'")
        return original(name, *more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"needs onnxruntime.*pip install 'barm-seg\[saliency\]'"):
        open_graph(path)
