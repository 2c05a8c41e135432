"""`decoder = "auto"` is decided by the backbone, once, and stored as what it is."""

from __future__ import annotations

import pytest
import torch

from barm.models.backbone import has_low_level
from barm.models.heads import PlainHead
from barm.models.segmenter import NetworkConfig, build_network

ADOPTED = {"family": "smp", "classifier": "segmentation_head.0", "width": 16, "outputs": [0, 1]}


@pytest.mark.parametrize(
    ("backbone", "decoder"),
    [("test_resnet", "v3plus"), ("test_vit", "v3"), ("deeplab_mobilenetv2", "v3plus"), ("no_net", "v3")],
)
def test_the_backbone_decides(backbone, decoder):
    state = torch.random.get_rng_state()
    config = NetworkConfig(backbone=backbone, decoder="auto", pretrained=False)
    assert (config.decoder, config.separable) == (decoder, decoder == "v3plus")
    assert NetworkConfig.stored(config.model_dump()) == config
    assert torch.equal(torch.random.get_rng_state(), state), "nothing is drawn"


def test_a_network_of_another_library_has_its_own():
    config = NetworkConfig(backbone="test_resnet", decoder="auto", pretrained=False, adopted=ADOPTED)
    assert (config.decoder, config.separable) == ("v3", False)


@pytest.mark.parametrize("stride", [8, 16])
def test_what_is_decided_can_be_built(stride):
    config = NetworkConfig(backbone="test_resnet", decoder="auto", pretrained=False, channels=16, output_stride=stride)
    network = build_network(config, PlainHead, (3,), pretrained=False)
    assert network.eval()(torch.zeros(1, 3, 64, 64)).logits.shape == (1, 4, 16, 16)
    assert has_low_level("test_resnet", stride)
