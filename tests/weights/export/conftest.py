"""A network for the tests of exported files."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import barm
from barm.data.sources.shapes_disk import make_shapes
from barm.engine.config import RuntimeConfig
from barm.labels import Step
from barm.methods import METHODS
from barm.models.segmenter import NetworkConfig
from barm.weights.export import agreement
from barm.weights.trained import Trained

TINY = {"backbone": "test_resnet", "channels": 16, "pretrained": False}
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


@pytest.fixture
def tiny_trained():
    """A function that gives a network with random weights and the statistics of images.

    Its labels are not all one class.
    """

    def make(name: str, **options) -> Trained:
        torch.manual_seed(0)
        config = NetworkConfig(**{**TINY, **options})
        step = Step(2, ((1, 2), (3,), (4,)))
        method = METHODS[name]().build(step, config)
        network = method.build_model().train()
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None
        with torch.no_grad():
            for image in (image for image in agreement._batches(4) if len(image) > 1):
                network(torch.from_numpy(image.transpose(0, 3, 1, 2)) / 64.0 - 2)
        about = {
            "method": method.config.model_dump(mode="json"),
            "model": config.model_dump(mode="json"),
            "groups": step.groups,
            "num_steps": 3,
            "classes": [{"id": i, "name": f"class {i}", "colour": [i, i, i]} for i in range(5)],
        }
        return Trained(network.eval(), method, about, RuntimeConfig(), {})

    return make


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """BARM in three steps, trained for seconds: enough for labels that are not all one class."""
    folder = tmp_path_factory.mktemp("export")
    make_shapes(folder / "data", layout="voc", num_classes=4, num_train=240, num_val=6, size=(48, 48), seed=3)
    barm.fit("shapes/2-1/barm", out=folder / "barm", data=folder / "data", overrides=SMALL, quiet=True)
    return folder / "barm"
