"""Convolutions in two parallel branches: one keeps what was learned, the other goes on learning.

Source: RCIL, Zhang et al., CVPR 2022, arXiv 2203.05402; spec/rcil.md sections 2 to 4.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from barm.errors import UserError
from barm.models.neck import AddedPoolNeck, AtrousNeck, DecoderNeck, Neck

Form = Literal["trained", "settled"]
ALONE, EITHER = 0.33, 0.66  # a draw below the first takes the old branch alone, below the second the new one (Q12)


class Norm(NamedTuple):
    """Batch norm with settled statistics, per channel ``(C,)``: ``scale (x - mean) / sqrt(variance + eps) + shift``."""

    scale: Tensor
    shift: Tensor
    mean: Tensor
    variance: Tensor
    eps: float


class Branch(NamedTuple):
    """A convolution: kernel ``(C, B, k, k)``, bias ``(C,)`` if it has one, and the norm after it if there is one."""

    weight: Tensor
    bias: Tensor | None = None
    norm: Norm | None = None


def path_weights(draw: Tensor) -> tuple[Tensor, Tensor]:
    """Weights of the old and of the new branch for draws from ``[0, 1)``, of the same shape; they add up to 1.

    Source: spec/rcil.md section 2.2.

    >>> path_weights(torch.tensor([0.1, 0.4, 0.9]))
    (tensor([1.0000, 0.0000, 0.5000]), tensor([0.0000, 1.0000, 0.5000]))
    """
    old = torch.where(draw < ALONE, 1.0, torch.where(draw < EITHER, 0.0, 0.5)).to(draw.dtype)
    return old, 1 - old


def merged_branches(old: Branch, new: Branch) -> tuple[Tensor, Tensor]:
    """Kernel and bias of the one convolution that gives the mean of two branches with settled norm.

    It is computed in double precision, and returned in the kernels' type. Source: spec/rcil.md section 4.
    """
    weights, biases = zip(*map(_folded, (old, new)), strict=True)
    return sum(weights).div(2).to(old.weight), sum(biases).div(2).to(old.weight)


def _folded(branch: Branch) -> tuple[Tensor, Tensor]:
    """Kernel and bias of a branch as one convolution, float64."""
    weight = branch.weight.detach().double()
    bias = weight.new_zeros(len(weight)) if branch.bias is None else branch.bias.detach().double()
    if branch.norm is None:
        return weight, bias
    scale, shift, mean, variance = (tensor.detach().double() for tensor in branch.norm[:4])
    folded = fuse_conv_bn_weights(weight, bias, mean, variance, branch.norm.eps, scale, shift)
    return folded[0].detach(), folded[1].detach()


class Pair(nn.Module):
    """Two branches of a convolution with its batch norm, mixed per channel.

    In training every channel has the old branch, the new one or the mean of both, as `draw_paths` has drawn, the same
    for all pixels and images; in evaluation, and before the first draw, the mean.

    Args:
        conv: becomes the new branch, together with `norm`.
        norm: the batch norm that follows it.
        form: of the old branch: a copy that is ``trained`` like the new one, or a ``settled`` convolution with a bias,
            zero here, without norm, which `settled` fills.

    Attributes:
        share: of the old branch per channel, ``(C, 1, 1)``; not stored.
    """

    share: Tensor

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d, form: Form) -> None:
        super().__init__()
        self.old = nn.Sequential(copy.deepcopy(conv), copy.deepcopy(norm))
        self.new = nn.Sequential(conv, norm)
        if form == "settled":
            self.old = nn.Sequential(
                _with(conv, conv.weight.detach().clone(), conv.weight.new_zeros(conv.out_channels))
            )
        share = torch.full((conv.out_channels, 1, 1), 0.5, device=conv.weight.device)
        self.register_buffer("share", share, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, B, H, W)`` -> ``(N, C, h, w)``."""
        old, new = self.old(x), self.new(x)
        if not self.training:
            return (old + new) / 2  # type: ignore[no-any-return]
        share = self.share.to(old.dtype)
        return share * old + (1 - share) * new  # type: ignore[no-any-return]

    @property
    def is_settled(self) -> bool:
        """Whether the old branch is a convolution that no longer trains."""
        return len(self.old) == 1

    def merged(self) -> nn.Conv2d:
        """One convolution that does what both branches do in evaluation."""
        weight, bias = merged_branches(_branch(self.old), _branch(self.new))
        return _with(cast(nn.Conv2d, self.new[0]), weight, bias)


def _branch(layers: nn.Sequential) -> Branch:
    conv = cast(nn.Conv2d, layers[0])
    if len(layers) == 1:
        return Branch(conv.weight, conv.bias)
    norm = cast(nn.BatchNorm2d, layers[1])
    mean, variance = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
    return Branch(conv.weight, conv.bias, Norm(norm.weight, norm.bias, mean, variance, norm.eps))


def _with(conv: nn.Conv2d, weight: Tensor, bias: Tensor) -> nn.Conv2d:
    """A convolution of the same form with other tensors, which do not train."""
    made = copy.deepcopy(conv)
    made.weight, made.bias = nn.Parameter(weight, requires_grad=False), nn.Parameter(bias, requires_grad=False)
    return made


def pairs_of(network: nn.Module) -> Iterator[Pair]:
    """All pairs of a network."""
    return (module for module in network.modules() if isinstance(module, Pair))


@torch.no_grad()
def draw_paths(network: nn.Module) -> None:
    """Draw anew which branch every channel takes, from torch's generator of the processor, whatever the device."""
    pairs = list(pairs_of(network))
    sizes = [len(pair.share) for pair in pairs]
    if not pairs:
        return
    old, _ = path_weights(torch.rand(sum(sizes)))
    drawn = old.to(pairs[0].share.device, non_blocking=True).view(-1, 1, 1)
    torch._foreach_copy_([pair.share for pair in pairs], list(torch.split(drawn, sizes)))


def settled(network: nn.Module) -> nn.Module:
    """A copy of a network in which the old branch of every pair is what both did together."""
    network = copy.deepcopy(network)
    for pair in pairs_of(network):
        pair.old = nn.Sequential(pair.merged())
    return network


def merge_pairs(network: nn.Module, dtype: torch.dtype = torch.float32) -> None:
    """Replace every pair by one convolution, in place, for a constant network.

    A pair whose convolution would overflow in `dtype` stays.
    """
    largest = torch.finfo(dtype).max
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, Pair):
                conv = child.merged()
                if all(float(tensor.abs().max()) <= largest for tensor in conv.parameters()):
                    setattr(parent, name, conv)


def pair_backbone(backbone: nn.Module, form: Form) -> None:
    """Put a pair in the place of every 3x3 convolution of a ResNet's blocks and the batch norm after it, in place.

    Both branches start with the convolution's weights (section 2.1).

    Raises:
        UserError: for a backbone that has no such convolution.
    """
    blocks = [block for i in range(1, 5) for block in cast(nn.Sequential, getattr(backbone, f"layer{i}", ()))]
    found = False
    for block in blocks:
        for place in (1, 2, 3):
            conv, norm = (getattr(block, f"{name}{place}", None) for name in ("conv", "bn"))
            if isinstance(conv, nn.Conv2d) and conv.kernel_size == (3, 3) and type(norm) is nn.BatchNorm2d:
                setattr(block, f"conv{place}", Pair(conv, norm, form))
                setattr(block, f"bn{place}", nn.Identity())
                found = True
    if not found:
        raise UserError(
            "parallel branches take the place of plain 3x3 convolutions with batch norm in a ResNet's blocks, and this "
            "backbone has none: choose one such as resnet50"
        )


def pair_neck(neck: Neck, form: Form) -> None:
    """Put a pair in the place of each of ASPP's four convolutions and its batch norm, in place.

    `AddedPoolNeck` has one norm for all four, which is the same as one for each. Its weights are drawn anew: without
    an activation in the norm the gain of Xavier's rule is 1 (section 2.1).

    Raises:
        UserError: for a neck without ASPP.
    """
    if isinstance(neck, DecoderNeck):
        neck = neck.aspp
    if isinstance(neck, AtrousNeck):
        for branch in cast(nn.ModuleList, neck.convs)[:-1]:
            layers = cast(nn.Sequential, branch)
            layers[0] = Pair(cast(nn.Conv2d, layers[0]), cast(nn.BatchNorm2d, layers[1]), form)
            layers[1] = nn.Identity()
    elif isinstance(neck, AddedPoolNeck):
        for i, conv in enumerate(neck.convs):
            neck.convs[i] = Pair(cast(nn.Conv2d, conv), nn.BatchNorm2d(cast(nn.Conv2d, conv).out_channels), form)
        neck.norm[0] = nn.Identity()
        neck.draw(gain=1.0)
    else:
        raise UserError("parallel branches need ASPP behind the backbone, which this one has not: choose a ResNet")
