"""Networks that cannot be dilated: maps, sizes, and everything that is done with a network."""

from __future__ import annotations

import pytest
import timm
import torch
from torch.nn import functional as F

from barm.api import fit
from barm.engine.capacity import skeleton
from barm.engine.checkpoint.directory import RunDirectory
from barm.errors import Stopped, UserError
from barm.labels import Step
from barm.methods import METHODS
from barm.models.backbone import create_backbone, num_channels, reveal_stages
from barm.models.frozen import Constant
from barm.models.inputs import timm_rule
from barm.models.segmenter import NetworkConfig
from barm.models.undilated import SizeRule, find_form

PYRAMID, PLAIN, FIXED = "test_mambaout", "test_vit", "levit_128s"  # small ones; the last takes 224 x 224 alone


def method_of(backbone: str, **options):
    network = NetworkConfig(backbone=backbone, channels=8, pretrained=False, **options)
    return METHODS["finetune"]().build(Step(0, ((1, 2),)), network)


@pytest.mark.parametrize(("name", "strides"), [(PYRAMID, (8, 16, 32)), (PLAIN, (16,)), (FIXED, (16, 32, 64))])
def test_maps_have_their_strides_and_channels_first(name, strides):
    body = create_backbone(name, 8).eval()
    with torch.inference_mode():
        maps = body(torch.randn(2, 3, 224, 224))
    assert body.form.strides == strides
    assert [x.shape[1] for x in maps] == num_channels(body)
    assert [tuple(x.shape[2:]) for x in maps] == [(-(-224 // s),) * 2 for s in strides]


@pytest.mark.parametrize("size", [(32, 32), (33, 50), (97, 61), (1, 7), (160, 96)])
@pytest.mark.parametrize("name", [PYRAMID, PLAIN, FIXED])
def test_any_size(name, size):
    model = method_of(name).build_model().eval()
    with torch.inference_mode():
        assert model(torch.randn(1, 3, *size)).logits.isfinite().all()


def test_tokens_are_timms_own():
    torch.manual_seed(0)
    body = create_backbone(PLAIN, 16).eval()
    torch.manual_seed(0)
    whole = timm.create_model(PLAIN, num_classes=0).eval()
    image = torch.randn(1, 3, 96, 160)
    with torch.no_grad():
        (tokens,) = whole.forward_intermediates(image, indices=1, norm=True, output_fmt="NCHW", intermediates_only=True)
        assert torch.equal(body(image)[0], tokens)


def test_images_are_resized_to_the_nearest_size_that_a_network_takes():
    body = create_backbone(PLAIN, 16).eval()
    image = torch.randn(1, 3, 100, 39)
    with torch.no_grad():
        assert torch.equal(body(image)[0], body(F.interpolate(image, (96, 32), mode="bilinear"))[0])


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("swin_tiny_patch4_window7_224", SizeRule(32, 64)),
        ("vit_small_patch14_dinov2", SizeRule(14, 28)),
        ("maxvit_nano_rw_256", SizeRule(256, 256)),
        ("beit_base_patch16_224", SizeRule(224, 224, (224, 224))),
    ],
)
def test_the_network_decides_which_sizes_it_takes(name, rule):
    assert find_form(name, name, 16, None).rule == rule


@pytest.mark.parametrize("name", [PYRAMID, PLAIN])
@pytest.mark.parametrize("decoder", ["v3", "added_pool"])
def test_one_update_changes_every_parameter(name, decoder):
    model = method_of(name, decoder=decoder).build_model().train()
    before = {n: p.clone() for n, p in model.named_parameters()}
    out = model(torch.randn(2, 3, 64, 64))
    out.logits.square().sum().backward()
    torch.optim.SGD(model.parameters(), lr=100.0).step()
    assert [n for n, p in model.named_parameters() if torch.equal(p, before[n])] == []


@pytest.mark.parametrize("name", [PYRAMID, PLAIN])
def test_a_stopped_run_goes_on_as_if_it_had_not_been_stopped(name, tiny, tmp_path, monkeypatch):
    from barm.engine.train import StepTrainer

    config = tiny("finetune", "offline", f"model.backbone={name}", "model.decoder=v3", "model.rates=[1,2,3]")
    fit(config, out=tmp_path / "whole", quiet=True)
    update = StepTrainer.update

    def stopping(trainer, *given, **named):
        outcome = update(trainer, *given, **named)
        return outcome._replace(stop=True) if trainer.iteration == 2 else outcome

    monkeypatch.setattr(StepTrainer, "update", stopping)
    with pytest.raises(Stopped):
        fit(config, out=tmp_path / "broken", quiet=True)
    monkeypatch.setattr(StepTrainer, "update", update)
    assert not RunDirectory(tmp_path / "broken").is_complete(0)
    fit(config, out=tmp_path / "broken", quiet=True, resume=True)
    whole, broken = (RunDirectory(tmp_path / run).step_path(0) / "model.safetensors" for run in ("whole", "broken"))
    assert broken.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", [PYRAMID, PLAIN, FIXED])
def test_constant_networks(name, dtype):
    """LeViT keeps what it computed in evaluation, which must follow the weights into another type."""
    model, image = method_of(name).build_model().eval(), torch.randn(1, 3, 70, 45)
    with torch.no_grad():
        plain = model(image).logits
    constant = Constant(model, dtype, layout=torch.channels_last)(image).logits
    assert float((constant - plain).abs().max()) <= (1e-4 if dtype == torch.float32 else 0.1) * float(plain.abs().max())


@pytest.mark.parametrize("name", [PYRAMID, PLAIN, FIXED])
def test_a_skeleton_needs_no_memory(name):
    model = skeleton(method_of(name))
    assert {p.device.type for p in model.parameters()} == {"meta"}
    assert model(torch.empty(2, 3, 64, 64, device="meta")).logits.device.type == "meta"


def test_what_asks_a_network_draws_no_random_number():
    torch.manual_seed(0)
    find_form.cache_clear()
    find_form(PLAIN, PLAIN, 16, None)
    asked = torch.rand(3)
    torch.manual_seed(0)
    assert torch.equal(asked, torch.rand(3))


@pytest.mark.parametrize(
    ("name", "mean"),
    [
        ("vit_base_patch16_siglip_224", (0.5, 0.5, 0.5)),
        ("vit_small_patch16_dinov3", (0.485, 0.456, 0.406)),
        ("samvit_base_patch16", (0.485, 0.456, 0.406)),
        ("vit_base_patch32_clip_224", (0.48145466, 0.4578275, 0.40821073)),
    ],
)
def test_normalisation_is_that_of_the_weights(name, mean):
    assert timm_rule(name).mean == pytest.approx(mean)


def test_a_plain_transformer_has_no_low_level():
    with pytest.raises(UserError, match=r"'test_vit' has no features at stride 4, only at 16, .*decoder = 'v3'"):
        create_backbone(PLAIN, 16, low_level=True)


def test_what_only_dilated_networks_have():
    with pytest.raises(UserError, match=r"'test_vit' cannot be dilated, and model.activation = 'leaky_relu'.*resnet50"):
        create_backbone(PLAIN, 16, leaky=True)
    with pytest.raises(UserError, match="exist in ResNets only"):
        reveal_stages(create_backbone(PYRAMID, 16))


def test_a_network_without_maps(monkeypatch):
    monkeypatch.setattr("barm.models.undilated._maps", lambda *_: (_ for _ in ()).throw(ValueError("a\nb")))
    find_form.cache_clear()
    with pytest.raises(UserError, match=r"'test_vit' gives no feature maps.*choose another") as caught:
        create_backbone(PLAIN, 16)
    assert "\n" not in str(caught.value)
