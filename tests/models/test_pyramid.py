"""The feature pyramid: one map at the output stride, below the neck's own rate."""

from __future__ import annotations

import pytest
import torch

from barm.labels import Step
from barm.methods import METHODS
from barm.methods.groups import Rates
from barm.models.backbone import create_backbone
from barm.models.neck import AtrousNeck
from barm.models.pyramid import PyramidNeck, make_neck
from barm.models.segmenter import NetworkConfig

NAME = "test_mambaout"


def network(**options) -> NetworkConfig:
    return NetworkConfig(backbone=NAME, channels=8, pretrained=False, **options)


@pytest.mark.parametrize("output_stride", [8, 16])
def test_logits_are_at_the_output_stride(output_stride):
    model = METHODS["barm"]().build(Step(0, ((1, 2),)), network(output_stride=output_stride)).build_model().eval()
    with torch.inference_mode():
        assert model(torch.randn(1, 3, 96, 128)).logits.shape[2:] == (96 // output_stride, 128 // output_stride)


def test_logits_of_v3plus_are_at_stride_4():
    model = METHODS["barm"]().build(Step(0, ((1, 2),)), network(decoder="v3plus")).build_model().eval()
    with torch.inference_mode():
        assert model(torch.randn(1, 3, 96, 128)).logits.shape[2:] == (24, 32)


def test_coarse_maps_reach_the_fine_one():
    neck = PyramidNeck([4, 6], AtrousNeck([256], (1, 2, 3), 8, 0.0)).eval()
    fine, coarse = torch.randn(1, 4, 8, 8), torch.randn(1, 6, 4, 4)
    with torch.no_grad():
        assert not torch.equal(neck([fine, coarse]), neck([fine, 2 * coarse]))
        assert neck([fine, coarse]).shape == (1, 8, 8, 8)


@pytest.mark.parametrize("name", ["barm", "finetune", "dkd", "ssul"])
def test_the_pyramid_trains_at_the_rate_of_the_neck(name):
    method = METHODS[name]().build(Step(0, ((1, 2),)), network())
    model = method.build_model()
    groups = method.param_groups(model, Rates(new=1, aspp=2, old=3, backbone=4))
    rates = {id(p): g["lr"] for g in groups for p in g["params"]}
    pyramid = next(m for m in model.modules() if isinstance(m, PyramidNeck))
    assert {rates[id(p)] for p in (*pyramid.lateral.parameters(), *pyramid.smooth.parameters())} == {2}


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_one_map_needs_no_pyramid(name):
    assert isinstance(make_neck(create_backbone(name, 16), AtrousNeck, (1, 2, 3), 8, 0.0), AtrousNeck)
