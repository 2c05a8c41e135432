"""Tiny saliency networks in files, and a data set without maps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper, save
from torch import Tensor, nn

from barm.data.sources.shapes_disk import make_shapes

SIZED = (1, 3, 8, 8)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Three classes in a folder: 6 + 2 images of 48x32."""
    make_shapes(tmp_path / "own", num_classes=3, num_train=6, num_val=2, size=(48, 32), seed=1)
    return tmp_path / "own"


@pytest.fixture
def onnx_file(tmp_path):
    """A function that writes a 1x1 convolution: ``onnx_file([[1/3, 1/3, 1/3]])`` gives the mean of the channels.

    Args:
        weights: a row per output channel.
        shape: of the input; names are sides that may vary.
        kind: of its numbers.
        names: of the outputs, which are all alike.
    """

    def write(weights=((1 / 3, 1 / 3, 1 / 3),), shape=(1, 3, "h", "w"), kind=TensorProto.FLOAT, names=("map",)):
        dtype = helper.tensor_dtype_to_np_dtype(kind)
        kernel = numpy_helper.from_array(np.array(weights, dtype)[..., None, None], "kernel")
        nodes = [helper.make_node("Conv", ["image", "kernel"], [name]) for name in names]
        ends = [helper.make_tensor_value_info(name, kind, (1, len(weights), *shape[2:])) for name in names]
        graph = helper.make_graph(nodes, "net", [helper.make_tensor_value_info("image", kind, shape)], ends, [kernel])
        path = tmp_path / "net.onnx"
        save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
        return path

    return write


class Mean(nn.Module):
    """The mean of the channels, in one of the forms in which networks give maps."""

    def __init__(self, form: str = "map") -> None:
        super().__init__()
        self.form = form

    def forward(self, image: Tensor) -> object:
        mean = image.mean(1, keepdim=True)
        forms = {"map": mean, "flat": mean[:, 0], "table": {"side": 1 - mean, "fused": mean}}
        return forms.get(self.form, (mean, [1 - mean]))


@pytest.fixture
def exported_file(tmp_path):
    """A function that writes a torch.export file of `Mean`: ``exported_file("flat")``."""

    def write(form="map", shape=SIZED):
        path = tmp_path / "net.pt2"
        torch.export.save(torch.export.export(Mean(form), (torch.zeros(shape),)), path)
        return path

    return write
