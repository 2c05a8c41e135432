"""Backbones: the levels that a decoder asks for are those it gets, or one line says why not."""

from __future__ import annotations

from functools import partial

import pytest
import timm
import torch

from barm.errors import UserError
from barm.labels import Step
from barm.methods import METHODS
from barm.models.backbone import _bare, create_backbone, num_channels
from barm.models.segmenter import NetworkConfig

SIDE = 64
WITHOUT_STRIDE_2 = ("convnext_atto", "test_convnext")
WITH_STRIDE_1 = ("darknet17",)
USUAL = ("resnet18", "mobilenetv2_100", "efficientnet_lite0", "tf_efficientnet_lite0", "deeplab_mobilenetv2")


@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize("name", [*WITHOUT_STRIDE_2, *WITH_STRIDE_1, *USUAL])
def test_the_low_level_is_at_stride_4(name, output_stride):
    body = create_backbone(name, output_stride, low_level=True).eval()
    with torch.inference_mode():
        levels = body(torch.randn(1, 3, SIDE, SIDE))
    assert [SIDE / level.shape[-1] for level in levels] == [4, output_stride]
    assert [level.shape[1] for level in levels] == num_channels(body)


@pytest.mark.parametrize("name", ["test_convnext", "deeplab_mobilenetv2"])
def test_logits_of_v3plus_are_at_stride_4(name):
    network = NetworkConfig(backbone=name, decoder="v3plus", channels=8, pretrained=False)
    model = METHODS["finetune"]().build(Step(0, ((1, 2),)), network).build_model().eval()
    with torch.inference_mode():
        assert model(torch.randn(1, 3, SIDE, SIDE)).logits.shape[2:] == (SIDE // 4, SIDE // 4)


def test_no_features_at_stride_4(monkeypatch):
    monkeypatch.setattr("barm.models.backbone.timm.create_model", partial(timm.create_model, patch_size=8))
    with pytest.raises(UserError, match=r"no features at stride 4, only at 8, 16, .*decoder = 'v3'") as caught:
        create_backbone("test_convnext", 16, low_level=True)
    assert "\n" not in str(caught.value)
    assert num_channels(create_backbone("test_convnext", 16)) == [64]


def test_an_output_stride_that_is_not_kept(monkeypatch):
    """A network that takes the argument and stays at stride 32 gets a pyramid, as one that refuses it."""
    create = timm.create_model

    def careless(name: str, output_stride: int = 32, **options):
        return create(name, **options)

    monkeypatch.setattr("barm.models.backbone.timm.create_model", careless)
    assert create_backbone("test_resnet", 16).form.strides == (16, 32)


def test_dilated_networks_keep_timms_names_and_numbers():
    torch.manual_seed(0)
    body = create_backbone("test_resnet", 16)
    torch.manual_seed(0)
    timms = timm.create_model("test_resnet", features_only=True, output_stride=16, out_indices=(-1,))
    assert list(body.state_dict()) == list(timms.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(body.state_dict().values(), timms.state_dict().values(), strict=True))


@pytest.mark.parametrize("name", ["test_convnext", "test_mambaout", "test_vit"])
def test_a_local_file_has_timms_names(name, tmp_path):
    """Whole networks with their classifier, whatever the way to their maps makes of the names."""
    whole = timm.create_model(name)
    torch.save(whole.state_dict(), tmp_path / "whole.pth")
    body = create_backbone(name, 16, weights=tmp_path / "whole.pth")
    values = {_bare(k): v for k, v in whole.state_dict().items()}
    assert all(torch.equal(v, values[_bare(k)]) for k, v in body.state_dict().items())


@pytest.mark.parametrize("name", ["resnet_18", "vit_smal_patch14_dinov2"])
def test_an_unknown_name(name):
    with pytest.raises(
        UserError, match=f"unknown backbone '{name}': expected a timm model name.*did you mean"
    ) as caught:
        create_backbone(name, 16)
    assert "\n" not in str(caught.value)
