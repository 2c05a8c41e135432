"""A network for the tests of exported files."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from barm.engine.config import RuntimeConfig
from barm.labels import Step
from barm.methods import METHODS
from barm.models.segmenter import NetworkConfig
from barm.weights.export import agreement
from barm.weights.trained import Trained

TINY = {"backbone": "test_resnet", "channels": 16, "pretrained": False}


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
