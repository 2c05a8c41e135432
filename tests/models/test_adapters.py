"""Low-rank adapters while a step trains, and the network that is left after it."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from torch import nn

from barm.errors import UserError
from barm.models import adapters
from barm.models.adapters import add_adapters, is_adapted
from barm.models.batch_norm import ordinary

pytest.importorskip("peft")
IMAGE = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
NAMES = ["resnet18", "convnext_atto", "vit_tiny_patch16_224"]


def backbone_of(name, **options):
    """The dilated last stage is the hard case: peft itself leaves the dilation out."""
    torch.manual_seed(0)
    more = {"img_size": 64} if "vit" in name else {"output_stride": 8}
    return timm.create_model(name, pretrained=False, features_only=True, out_indices=(-1,), **more, **options).eval()


def adapted(network, targets=(), **options):
    weights = {id(p) for p in network.parameters()}
    return add_adapters(network, **{"rank": 4, "alpha": 8, "seed": 1, "wanted": weights, **options}, targets=targets)


@pytest.mark.parametrize("name", NAMES)
def test_the_output_stays_until_the_first_update_and_through_the_merge(name):
    network = backbone_of(name)
    plain, before = copy.deepcopy(network), network(IMAGE)[0]
    factors = adapted(network)
    assert torch.equal(network(IMAGE)[0], before)
    for _, second in factors.values():
        nn.init.normal_(second, std=0.02)
    changed = network(IMAGE)[0]
    assert (changed - before).abs().max() > 1e-3
    left = ordinary(network)
    assert list(left.state_dict()) == list(plain.state_dict())
    assert not any(is_adapted(module) for module in left.modules())
    torch.testing.assert_close(left(IMAGE)[0], changed, rtol=1e-5, atol=1e-5 * float(changed.abs().max()))
    again = plain.load_state_dict(left.state_dict())
    assert not again.missing_keys
    torch.testing.assert_close(plain(IMAGE)[0], left(IMAGE)[0], rtol=0, atol=0)
    torch.testing.assert_close(network(IMAGE)[0], changed, rtol=0, atol=0)  # which goes on training


def test_layers_by_the_ends_of_their_names_and_by_what_trains():
    network = backbone_of("resnet18")
    wanted = {id(p) for name, p in network.named_parameters() if name.startswith("layer4")}
    adapted(network, targets=["conv2"], wanted=wanted)
    found = [name for name, module in network.named_modules() if is_adapted(module)]
    assert found == ["layer4.0.conv2", "layer4.1.conv2"]


def test_nothing_that_trains_is_left_as_it_is():
    network = backbone_of("resnet18")
    names = list(network.state_dict())
    assert adapted(network, wanted=set()) == {}
    assert list(network.state_dict()) == names
    assert ordinary(network) is network


def test_convolutions_with_groups_have_no_adapter():
    network = backbone_of("convnext_atto")
    adapted(network)
    found = {name.split(".")[-1] for name, module in network.named_modules() if is_adapted(module)}
    assert found == {"stem_0", "1", "fc1", "fc2"}  # conv_dw is not among them


def test_a_seed_decides_the_adapters_alone():
    first, second, other = (backbone_of("resnet18") for _ in range(3))
    before = torch.get_rng_state()
    pairs = zip(adapted(first).values(), adapted(second).values(), adapted(other, seed=2).values(), strict=True)
    for (a, b), (c, _), (d, _) in pairs:
        assert torch.equal(a, c)
        assert not torch.equal(a, d)
        assert not b.any()
    assert torch.equal(torch.get_rng_state(), before)


def test_without_memory_adapters_have_none():
    with torch.device("meta"):
        network = backbone_of("resnet18")
        factors = adapted(network)
        assert {tuple(t.device.type for t in pair) for pair in factors.values()} == {("meta", "meta")}
        assert network(torch.empty(1, 3, 64, 64))[0].shape == (1, 512, 8, 8)


def test_an_unknown_target_and_a_missing_library(monkeypatch):
    with pytest.raises(UserError, match=r"lora.targets has 'qkv'.*expected one such as 'layer4\.1\.conv2'"):
        adapted(backbone_of("resnet18"), targets=["conv1", "qkv"])
    monkeypatch.setattr(adapters, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'barm-seg\[models\]'"):
        adapted(backbone_of("resnet18"))
