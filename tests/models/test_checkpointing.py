"""Blocks that are computed again in the backward pass: the same results, and less that is kept."""

from __future__ import annotations

import copy
import gc
import weakref

import pytest
import torch
from torch import nn

import barm
from barm.engine.capacity import kept
from barm.models.adopted import AdoptedConfig
from barm.models.backbone import create_backbone, reveal_stages
from barm.models.batch_norm import ordinary, synchronised
from barm.models.checkpointing import Recomputed, Uncompiled, blocks, recompute_blocks
from barm.models.families import own
from barm.models.heads import PlainHead
from barm.models.segmenter import NetworkConfig, build_network

IMAGE = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
NAMES = [
    "test_resnet",
    "densenet121",  # its blocks take a list that grows
    "tf_efficientnet_lite0",  # batch norm and activation in one module
    "resnetv2_50d_evos",  # other running statistics than those of batch norm
    "convnext_atto",
    "vit_tiny_patch16_224",
    "swin_tiny_patch4_window7_224",
    "deeplab_mobilenetv2",
]


def backbone_of(name: str) -> nn.Module:
    torch.manual_seed(0)
    return create_backbone(name, 16).train()


def with_and_without(network: nn.Module) -> tuple[nn.Module, nn.Module]:
    """The network, and a copy whose blocks are computed again."""
    again = copy.deepcopy(network)
    recompute_blocks(again)
    assert any(isinstance(module, Recomputed) for module in again.modules())
    return network, again


def passed(network: nn.Module, updates: int = 2) -> list[torch.Tensor]:
    """Losses of some passes both ways, the gradients that they add up to, and the state afterwards."""
    torch.manual_seed(1)
    losses = []
    for _ in range(updates):
        losses.append(sum(out.square().mean() for out in network(IMAGE)))
        losses[-1].backward()
    grads = [torch.empty(0) if p.grad is None else p.grad for p in network.parameters()]
    return [*(loss.detach() for loss in losses), *grads, *network.state_dict().values()]


def assert_same(one: nn.Module, other: nn.Module) -> None:
    assert list(one.state_dict()) == list(other.state_dict())
    pairs = list(zip(passed(one), passed(other), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)
    assert any(a.numel() and a.abs().max() > 0 for a, _ in pairs)


@pytest.mark.parametrize("name", NAMES)
def test_losses_gradients_and_statistics_are_the_same(name):
    assert_same(*with_and_without(backbone_of(name)))


def test_under_autocast_too():
    one, other = with_and_without(backbone_of("test_resnet"))
    with torch.autocast("cpu", torch.bfloat16):
        first, second = passed(one), passed(other)
    assert all(torch.isfinite(a).all() and torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize(
    ("name", "kind", "number"),
    [
        ("resnet50", "Bottleneck", 16),
        ("convnext_atto", "ConvNeXtBlock", 12),
        ("regnety_002", "Bottleneck", 11),  # its stages are no lists; two of them have one block
        ("skresnet18", "SelectiveKernelBasic", 8),  # its lists hold parallel branches
        ("vit_tiny_patch16_224", "Block", 12),
        ("deeplab_mobilenetv2", "PaddedResidual", 17),
        ("vgg11_bn", "", 0),
    ],
)
def test_what_a_block_is(name, kind, number):
    found = [type(block).__name__ for block in blocks(backbone_of(name))]
    assert found.count(kind) == number
    assert len(found) <= number + 3  # stems and the like


def test_batch_norm_that_is_shared_between_processes_counts_a_batch_once():
    one, other = with_and_without(synchronised(backbone_of("tf_efficientnet_lite0")))
    assert any(isinstance(module, nn.SyncBatchNorm) for module in other.modules())
    assert_same(one, other)
    assert {int(value) for name, value in other.state_dict().items() if name.endswith("batches_tracked")} == {2}


class Random(nn.Module):
    """A block that draws, and changes a buffer that its result depends on."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3, momentum=None), nn.Dropout(0.5)
        self.last = nn.Conv2d(3, 3, 1)
        self.register_buffer("turn", torch.ones(()))
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        if self.training:
            self.turn.mul_(1.5)
        x = self.drop(self.norm(self.conv(x)).relu()) * self.turn
        return x + torch.tanh(self.last(x)) * torch.rand(())


def test_the_second_pass_draws_the_same_and_leaves_what_modules_keep():
    torch.manual_seed(0)
    one, other = with_and_without(nn.ModuleDict({"list": nn.Sequential(Random(), Random())})["list"].train())
    assert_same(one, other)
    assert [block.calls for block in other] == [2, 2]


def test_a_method_may_ask_for_a_gradient_before_the_backward_pass():
    results = []
    for network in with_and_without(backbone_of("test_resnet")):
        loss = network(IMAGE)[-1].square().mean()
        first = torch.autograd.grad(loss, list(network.parameters()), retain_graph=True)
        loss.backward()
        assert all(torch.equal(grad, p.grad) for grad, p in zip(first, network.parameters(), strict=True))
        results.append([*first, *network.state_dict().values()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("side", ["before", "after"])
def test_activations_that_are_read_aside(side):
    """Their gradients are the same, and the second pass keeps nothing."""
    results = []
    for network in with_and_without(backbone_of("test_resnet")):
        stages = reveal_stages(network, side)
        torch.manual_seed(1)
        out = network(IMAGE)[-1]
        maps = [stage.take() for stage in stages]
        seen = [weakref.ref(x) for x in maps]
        (out.square().mean() + sum(x.square().mean() for x in maps)).backward()
        assert [stage.given for stage in stages] == [None] * 4
        results.append([p.grad for p in network.parameters()])
        del maps, out
        gc.collect()
        assert [ref() for ref in seen] == [None] * 4
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


class Small(nn.Module):
    """A network whose last convolution is inside of a part that looks like a block."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.part = Random(), Part()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.part(self.block(image))
        return result


class Part(nn.Module):
    """Layers, a block, and the last convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.inner = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), Random()
        self.last = nn.Conv2d(3, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.last(self.inner(self.norm(self.conv(x))))
        return result


def test_a_part_that_calls_our_classifier_is_not_computed_again_but_what_is_in_it():
    barm.register_network("small", Small)
    try:
        adopted = AdoptedConfig(
            family="python", architecture='{"name": "small"}', classifier="part.last", width=3, outputs=(0, 1)
        )
        config = NetworkConfig(adopted=adopted, pretrained=False)
        torch.manual_seed(0)
        one = build_network(config, PlainHead, (1,), pretrained=False)
    finally:
        own.release("small")
    other = copy.deepcopy(one.train())
    recompute_blocks(other.backbone)
    found = [name for name, module in other.named_modules() if isinstance(module, Recomputed)]
    assert found == ["backbone.block", "backbone.part.inner"]
    results = []
    for network in (one, other):
        torch.manual_seed(1)
        network(IMAGE).logits.square().mean().backward()
        results.append([*(p.grad for p in network.parameters() if p.grad is not None), *network.state_dict().values()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_copies_go_their_own_way_and_the_ordinary_network_is_as_before():
    one, other = with_and_without(backbone_of("test_resnet"))
    twin = copy.deepcopy(other)
    passed(other)
    assert all(int(n) == 0 for name, n in twin.state_dict().items() if name.endswith("batches_tracked"))
    assert all(p.grad is None for p in twin.parameters())
    left = ordinary(other)
    assert [type(module) for module in left.modules()] == [type(module) for module in one.modules()]
    assert isinstance(other, Uncompiled)
    assert all(a is b for a, b in zip(left.parameters(), other.parameters(), strict=True))


def test_a_backbone_that_does_not_train_stays_as_it_is():
    network = backbone_of("test_resnet").requires_grad_(False)
    recompute_blocks(network)
    assert not any(isinstance(module, Recomputed | Uncompiled) for module in network.modules())


def test_without_a_gradient_a_block_is_computed_once():
    block = Random()
    network = nn.Sequential(block, Random())
    recompute_blocks(network)
    with torch.no_grad():
        network(IMAGE)
    assert block.calls == 1


@pytest.mark.parametrize("name", ["resnet50", "convnext_atto"])
def test_less_is_kept(name):
    """A ResNet's block keeps its input instead of that and six maps of a quarter or the whole of its channels."""
    with torch.device("meta"):
        plain, again = (create_backbone(name, 16).train() for _ in range(2))
    recompute_blocks(again)
    assert kept(again, 2, 64) < 0.45 * kept(plain, 2, 64)
