"""Which block of a backbone a parameter belongs to."""

from __future__ import annotations

import pytest
import timm
from torch import nn

from barm.models.backbone import create_backbone
from barm.models.depth import depths


def numbers(backbone, name):
    """Depth by the name of the parameter."""
    depth = depths(backbone, name)
    return {own: depth[id(p)] for own, p in backbone.named_parameters()}


@pytest.mark.parametrize(
    ("name", "blocks", "first", "last"),
    [
        ("resnet18", 9, "conv1.weight", "layer4.1.conv2.weight"),  # the stem and eight blocks
        ("convnext_atto", 13, "stem_0.weight", "stages_3.blocks.1.conv_dw.weight"),  # three of them downsample
        ("vit_tiny_patch16_224", 13, "model.pos_embed", "model.blocks.11.mlp.fc2.weight"),
    ],
)
def test_timm_says_what_a_block_is(name, blocks, first, last):
    backbone = timm.create_model(name, pretrained=False, features_only=True, out_indices=(-1,))
    found = numbers(backbone, name)
    assert (found[first], found[last]) == (blocks - 1, 0)
    assert sorted(set(found.values())) == list(range(blocks))
    assert list(found.values()) == sorted(found.values(), reverse=True)


def test_a_network_without_a_rule_has_its_parts_as_blocks():
    backbone = create_backbone("deeplab_mobilenetv2", 16)
    found = list(numbers(backbone, "deeplab_mobilenetv2").values())
    assert found == sorted(found, reverse=True)
    assert sorted(set(found)) == list(range(found[0] + 1))
    assert found[0] == 18  # the stem, seventeen blocks, the last convolution


def test_lists_of_parts_are_opened_and_a_wrapper_is_left_out():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Linear(2, 2)
            self.blocks = nn.ModuleList(nn.TransformerEncoderLayer(2, 1, 2) for _ in range(2))

    found = numbers(nn.ModuleDict({"inner": Net()}), "own")
    assert {name.split(".")[1]: depth for name, depth in found.items() if "blocks" not in name} == {"stem": 2}
    assert {name.split(".")[2]: depth for name, depth in found.items() if "blocks" in name} == {"0": 1, "1": 0}
