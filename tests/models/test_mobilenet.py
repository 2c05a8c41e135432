"""The published MobileNet takes the weights of others."""

from __future__ import annotations

import torch
from torchvision.models import mobilenet_v2

from barm.labels import Step
from barm.methods import METHODS
from barm.models.segmenter import NetworkConfig


def test_mobilenet_takes_torchvisions_weights(tmp_path):
    given = mobilenet_v2(weights=None).state_dict()
    torch.save(given, tmp_path / "weights.pth")
    network = NetworkConfig.from_name("deeplabv3_mobilenet", weights=tmp_path / "weights.pth")
    model = METHODS["ssul"]().build(Step(0, ((1, 2),)), network).build_model()
    found = model.backbone.state_dict()["high_level_features.17.conv.2.weight"]
    assert torch.equal(found, given["features.17.conv.2.weight"])
