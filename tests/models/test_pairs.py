"""Parallel branches in networks: where they stand, how they are merged, drawn and trained."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from barm.errors import UserError
from barm.labels import Step
from barm.methods.rcil import RCILConfig
from barm.models.backbone import create_backbone, drop_stem_activation
from barm.models.batch_norm import NormedConv
from barm.models.depth import depths
from barm.models.frozen import Constant, fold_batch_norm
from barm.models.frozen_norm import take_in_frozen_norms
from barm.models.neck import AddedPoolNeck
from barm.models.pairs import Pair, draw_paths, merge_pairs, pair_backbone, pair_neck, pairs_of, settled
from barm.models.segmenter import NetworkConfig

BODIES = {"v3": {}, "v3plus": {}, "added_pool": {"activation": "leaky_relu", "stem_activation": False, "dropout": 0}}
STEPS = (Step(0, ((1, 2),)), Step(1, ((1, 2), (3,))), Step(2, ((1, 2), (3,), (4,))))


def network(step: int, decoder: str = "v3") -> nn.Module:
    """A small network whose branches and statistics differ."""
    config = NetworkConfig(backbone="test_resnet", channels=8, pretrained=False, decoder=decoder, **BODIES[decoder])
    model = RCILConfig().build(STEPS[step], config).build_model()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values, low in ((module.weight, 0.5), (module.bias, -1), (module.running_var, 0.5)):
                nn.init.uniform_(values, low, 1.5)
            nn.init.uniform_(module.running_mean, -1, 1)
    for pair in pairs_of(model):
        for parameter in pair.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)
    return model.eval()


@pytest.mark.parametrize("decoder", sorted(BODIES))
@pytest.mark.parametrize("step", [0, 1])
@torch.no_grad()
def test_a_constant_network_has_one_branch(decoder, step):
    model, image = network(step, decoder), torch.randn(1, 3, 64, 64)
    expected, before = model(image).logits, sum(isinstance(m, nn.Conv2d) for m in model.modules())
    merged = Constant(model).network
    assert not list(pairs_of(merged))
    norms = [name for name, m in merged.named_modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms == (["classifier.aspp.last_norm.0"] if decoder == "added_pool" else [])  # which follows a sum
    assert before - sum(isinstance(m, nn.Conv2d) for m in merged.modules()) == len(list(pairs_of(model)))
    torch.testing.assert_close(merged(image).logits, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_what_overflows_is_not_merged():
    model = network(0)
    first, *rest = pairs_of(model)
    first.new[0].weight.mul_(1e6)
    merged = fold_batch_norm(model, torch.float16)
    assert len(list(pairs_of(merged))) == 1
    assert rest


@torch.no_grad()
def test_settled_branches_do_what_both_did():
    model, image = network(0), torch.randn(1, 3, 64, 64)
    before = copy.deepcopy(model.state_dict())
    after = settled(model)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())  # the teacher stays as it is
    for pair in pairs_of(after):
        pair.new = pair.old
    torch.testing.assert_close(after(image).logits, model(image).logits, rtol=1e-4, atol=1e-4)
    again = settled(after)
    for one, two in zip(pairs_of(after), pairs_of(again), strict=True):  # a settled branch has no norm (Q4)
        torch.testing.assert_close(one.old[0].weight, two.old[0].weight)
        torch.testing.assert_close(one.old[0].bias, two.old[0].bias)


def test_every_3x3_convolution_of_the_blocks_and_of_aspp():
    with torch.device("meta"):
        backbone = create_backbone("resnet101", 16)
        pair_backbone(backbone, "settled")
        neck = AddedPoolNeck([2048], (6, 12, 18), 256, 0.0)
        pair_neck(neck, "settled")
    assert sum(len(pair.share) for pair in pairs_of(backbone)) == 3 * 64 + 4 * 128 + 23 * 256 + 3 * 512
    assert [len(pair.share) for pair in pairs_of(neck)] == 4 * [256]
    left = [
        m for n, m in backbone.named_modules() if isinstance(m, nn.Conv2d) and ".old." not in n and ".new." not in n
    ]
    assert all(conv.kernel_size != (3, 3) for conv in left)


def test_the_new_branch_of_the_backbone_starts_as_the_old_one_and_aspps_by_itself():
    config = NetworkConfig(backbone="test_resnet", channels=8, pretrained=False)
    for decoder in BODIES:
        made = config.model_copy(update={"decoder": decoder})
        model = RCILConfig().build(STEPS[0], made).build_model()
        assert all(torch.equal(p.old[0].weight, p.new[0].weight) for p in pairs_of(model.backbone))
        assert not any(torch.equal(p.old[0].weight, p.new[0].weight) for p in pairs_of(model.classifier))


def test_xaviers_gain_is_1():
    neck = AddedPoolNeck([64], (1, 2, 3), 64, 0.0)
    for pairs, gain in ((False, 2**0.5), (True, 1.0)):
        if pairs:
            pair_neck(neck, "trained")
        fans = 64 * 9 + 64 * 9
        weight = [m for m in neck.convs.modules() if isinstance(m, nn.Conv2d)][-1].weight
        assert float(weight.std()) == pytest.approx(gain * (2 / fans) ** 0.5, rel=0.03)


def test_draws():
    """Thirds by the published thresholds; the network itself draws nothing, in whichever mode."""
    pair = Pair(nn.Conv2d(1, 20_000, 1, bias=False), nn.BatchNorm2d(20_000), "trained")
    torch.manual_seed(0)
    draw_paths(pair)
    shares = [float((pair.share == value).float().mean()) for value in (1, 0, 0.5)]
    assert shares == pytest.approx([0.33, 0.33, 0.34], abs=0.01)
    assert "share" not in pair.state_dict()
    model, image = network(0, "added_pool"), torch.randn(2, 3, 64, 64)
    for mode in (True, False):
        state = torch.get_rng_state()
        model.train(mode)(image)
        assert torch.equal(state, torch.get_rng_state())


def test_frozen_norms_are_taken_in():
    model = network(1)
    image = torch.randn(1, 3, 64, 64)
    expected = model(image).logits
    take_in_frozen_norms(model)
    assert all(isinstance(pair.new[0], NormedConv) for pair in pairs_of(model))
    torch.testing.assert_close(model(image).logits, expected, rtol=1e-4, atol=1e-4)


def test_depth_of_the_branches():
    name = "resnet18"
    with torch.device("meta"):
        plain, paired = create_backbone(name, 16), create_backbone(name, 16)
        pair_backbone(paired, "settled")
    found = depths(plain, name)
    expected = {n.replace(".", "_"): found[id(p)] for n, p in plain.named_parameters()}
    numbers = depths(paired, name)
    for n, p in paired.named_parameters():
        bare = n.replace(".old.0", "").replace(".new.0", "").replace(".bias", ".weight") if "conv" in n else n
        bare = bare.replace(".new.1", "").replace(".old.1", "").replace(".", "_")
        assert numbers[id(p)] == expected[bare], n


def test_what_has_no_such_convolutions_is_refused():
    with torch.device("meta"):
        for name in ("skresnet18", "test_efficientnet"):
            backbone = create_backbone(name, 16)
            with pytest.raises(UserError, match="this backbone has none: choose one such as resnet50"):
                pair_backbone(backbone, "trained")
        with pytest.raises(UserError, match="is for ResNets"):
            drop_stem_activation(backbone)
    config = NetworkConfig(backbone="test_resnet", pretrained=False, decoder="v3plus", separable=True)
    with pytest.raises(UserError, match="parallel branches of separable convolutions"):
        RCILConfig().build(STEPS[0], config).build_model()


def test_no_activation_in_the_stem():
    bodies = [network(0, decoder).backbone for decoder in ("v3", "added_pool")]
    assert [isinstance(body.act1, nn.Identity) for body in bodies] == [False, True]
    merge_pairs(bodies[0])
    assert not list(pairs_of(bodies[0]))
