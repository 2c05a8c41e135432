"""Networks in a form that other programs run."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from barm.weights.export.agreement import compare
from barm.weights.export.formats import FORMATS


class Stem(nn.Module):
    """The least that looks like a backbone."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 7, stride=8, padding=3)

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        """``(N, 3, H, W)`` -> features at stride 8."""
        return [self.conv(image).relu()]


@pytest.mark.graph
@pytest.mark.parametrize("name", ["finetune", "mib", "dkd", "ssul"])
def test_every_rule_of_prediction(name, tiny_trained):
    """As ONNX, with the real classifier on a stand-in for the backbone; BARM's is in the run."""
    trained = tiny_trained(name)
    channels = trained.network.backbone.feature_info.channels()[-1]
    trained.network.backbone = Stem(channels)
    found = compare(trained, FORMATS["onnx"][1](trained).predict, name)
    assert found.classes >= 2, found
    assert found.equal >= 0.999


@pytest.mark.graph
@pytest.mark.parametrize("name", [pytest.param("test_mambaout", marks=pytest.mark.long), "test_vit"])
def test_backbones_that_cannot_be_dilated(name, tiny_trained):
    """As ONNX: a pyramid and a plain transformer, at sizes that they resize to those they take."""
    trained = tiny_trained("finetune", backbone=name)
    found = compare(trained, FORMATS["onnx"][1](trained).predict, name)
    assert found.classes >= 2, found
    assert found.equal >= 0.999


@pytest.mark.graph
def test_a_body_with_a_window_of_any_size(tmp_path, tiny_trained):
    """MiB's and PLOP's body, whose pooling depends on the image's size, with torch alone."""
    trained = tiny_trained("plop", decoder="added_pool", activation="leaky_relu", output_stride=8)
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
