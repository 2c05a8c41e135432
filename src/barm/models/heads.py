"""Classifiers that grow by one branch or one group of channels per step. Source: spec/barm.md section 2."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from barm.models.aggregation import aggregate, aggregate_for_training
from barm.models.batch_norm import affine
from barm.models.neck import Neck


class PlainOutput(NamedTuple):
    """Output of the growing classifier.

    Attributes:
        logits: ``(N, C, h, w)``.
        feature: the backbone's last feature map, ``(N, B, h, w)``.
        branch: the classifier's input, ``(N, D, h, w)``.
        levels: the backbone's stages if the network returns them, from shallow to deep before or after their last
            activation, ``(N, B_i, h_i, w_i)`` each.
    """

    logits: Tensor
    feature: Tensor
    branch: Tensor
    levels: tuple[Tensor, ...] = ()


class GroupedOutput(NamedTuple):
    """Output of the grouped classifier.

    Attributes:
        heads: raw outputs of the heads, ``(N, 1 + group, h, w)`` each; channel 0 is the background logit (step 0) or
            that step's background adaptation.
        branches: the features below the heads (`head_pre`, then the ears) side by side, ``(N, T D, h, w)``.
    """

    heads: tuple[Tensor, ...]
    branches: Tensor

    @property
    def logits(self) -> Tensor:
        """Logits aggregated as in evaluation, ``(N, C, h, w)``."""
        return aggregate(self.heads)

    @property
    def training_logits(self) -> Tensor:
        """Logits aggregated as in training, ``(N, C, h, w)``."""
        return aggregate_for_training(self.heads)


def conv_block(in_channels: int, out_channels: int) -> nn.Sequential:
    """3x3 convolution without bias, batch norm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False), nn.BatchNorm2d(out_channels), nn.ReLU()
    )


def identity_block(block: nn.Sequential) -> None:
    """Let a `conv_block` return its input where that is not negative, in place."""
    conv, norm = cast(nn.Conv2d, block[0]), cast(nn.BatchNorm2d, block[1])
    nn.init.dirac_(conv.weight)
    nn.init.constant_(norm.weight, math.sqrt(1 + norm.eps))  # running statistics are 0 and 1


def classifier(neck: Neck, channels: int, outputs: int) -> nn.Conv2d:
    """The last convolution, with the window that the neck says."""
    return nn.Conv2d(channels, outputs, neck.kernel, padding=neck.kernel // 2)


def fold_into(conv: nn.Conv2d, norm: nn.BatchNorm2d, dtype: torch.dtype = torch.float32) -> bool:
    """Fold the batch norm after a convolution into it, in place.

    Returns:
        False if the folded weights are beyond the range of `dtype`; the convolution is then unchanged.
    """
    weight, bias = fuse_conv_bn_weights(
        conv.weight,
        conv.bias,
        cast(Tensor, norm.running_mean),
        cast(Tensor, norm.running_var),
        norm.eps,
        norm.weight,
        norm.bias,
    )
    fits = all(float(tensor.abs().max()) <= torch.finfo(dtype).max for tensor in (weight, bias))
    if fits:
        conv.weight, conv.bias = weight, bias
    return fits


def start_as_mean(weight: Tensor, bias: Tensor, rows: Sequence[tuple[Tensor, Tensor]], shares: Tensor) -> None:
    """Let classifiers be means of others, in place.

    Args:
        weight: ``(new, D, k, k)``.
        bias: ``(new,)``.
        rows: weights and biases of the others, together K.
        shares: ``(new, K)``.
    """
    weights, biases = (torch.cat(parts) for parts in zip(*rows, strict=True))
    given = shares.to(weights)
    weight.copy_(torch.einsum("nk,kdij->ndij", given, weights))
    bias.copy_(given @ biases)


class GroupedHead(nn.Module):
    """One branch per step: `head_pre` and its head at step 0, an ear and its head at every later step.

    Args:
        aspp: turns the backbone's feature maps into the common feature.
        channels: D, of every branch.
        group_sizes: classes per step without background, e.g. ``(15, 1, 1)``.
    """

    def __init__(self, aspp: Neck, channels: int, group_sizes: Sequence[int]) -> None:
        super().__init__()
        self.aspp = aspp
        self.head_pre = conv_block(aspp.width, channels) if aspp.refine else nn.Identity()
        self.ear = nn.ModuleList(conv_block(aspp.width, channels) for _ in group_sizes[1:])
        self.head = nn.ModuleList(classifier(aspp, channels, 1 + size) for size in group_sizes)

        self.merged: nn.Module | None = None

    def forward(self, features: Sequence[Tensor]) -> GroupedOutput:
        """Compute heads and branches from backbone features ``(N, B, h, w)``."""
        feature = self.aspp(features)
        branches: Tensor = self._branches(feature) if self.merged is None else self.merged(feature)
        return GroupedOutput(self._heads(branches), branches)

    def start_newest_ear(self, *, statistics: bool) -> None:
        """Let the newest ear start as `head_pre`, in place; as the identity where there is none.

        Args:
            statistics: batch norm takes the running statistics too, not the scale and shift alone.
        """
        ear = cast(Any, self.ear[-1])
        if isinstance(self.head_pre, nn.Identity):
            return identity_block(ear)
        pre = self.head_pre
        ear[0].load_state_dict(pre[0].state_dict())  # a convolution, or a separable one
        source, target = cast(nn.BatchNorm2d, pre[1]), cast(nn.BatchNorm2d, ear[1])
        with torch.no_grad():
            target.weight.copy_(source.weight)
            target.bias.copy_(source.bias)
        if statistics:
            target.load_state_dict(source.state_dict())

    @torch.no_grad()
    def start_newest_from(self, shares: Tensor) -> None:
        """Let the newest head's classes start as means of the old ones, in place. Its residual stays.

        The newest ear starts as `head_pre`, and so did the ears of later heads, whose classifiers count as if they
        stood on it.

        Args:
            shares: of the old channels, background first, ``(new, K)``.
        """
        first, *later = (cast(nn.Conv2d, h) for h in self.head[:-1])
        rows = [(first.weight, cast(Tensor, first.bias)), *((h.weight[1:], cast(Tensor, h.bias)[1:]) for h in later)]
        newest = cast(nn.Conv2d, self.head[-1])
        start_as_mean(newest.weight[1:], cast(Tensor, newest.bias)[1:], rows, shares)

    def _branches(self, feature: Tensor) -> Tensor:
        """Compute all branches. Plain convolutions with folded batch norm run as one, since they have equal shapes."""
        blocks = [cast(nn.Sequential, b) for b in (self.head_pre, *self.ear)]
        if len(blocks) == 1 or not all(_is_plain(block) and not block[1].training for block in blocks):
            return torch.cat([block(feature) for block in blocks], dim=1)
        norms = [cast(nn.BatchNorm2d, b[1]) for b in blocks]
        weight = torch.cat([cast(nn.Conv2d, b[0]).weight for b in blocks])
        scale, shift = (torch.cat(values) for values in zip(*map(affine, norms), strict=True))
        if weight.dtype != scale.dtype:  # in whose range the scale may not be
            wide = nn.functional.conv2d(feature, weight, padding=1)
            return torch.relu(wide * scale.view(-1, 1, 1) + shift.view(-1, 1, 1)).to(wide.dtype)
        return torch.relu(nn.functional.conv2d(feature, weight * scale.view(-1, 1, 1, 1), shift, padding=1))

    def _heads(self, branches: Tensor) -> tuple[Tensor, ...]:
        """Compute every head on its branch. Heads of later steps run as one product if they have equal sizes."""
        heads = [cast(nn.Conv2d, h) for h in self.head]
        parts = branches.chunk(len(heads), dim=1)
        sizes = {h.out_channels for h in heads[1:]}
        if len(heads) < 3 or len(sizes) > 1 or heads[0].kernel_size != (1, 1):
            return tuple(head(part) for head, part in zip(heads, parts, strict=True))
        n, width, h, w = parts[0].shape
        pixels = branches.permute(0, 2, 3, 1).reshape(n * h * w, len(heads), width)[:, 1:].transpose(0, 1)
        weight = torch.stack([h.weight.flatten(1) for h in heads[1:]]).transpose(1, 2)  # (T - 1, D, 1 + group)
        bias = torch.stack([cast(Tensor, h.bias) for h in heads[1:]]).unsqueeze(1)
        later = torch.baddbmm(bias, pixels, weight).view(-1, n, h, w, *sizes).permute(0, 1, 4, 2, 3)
        return (heads[0](parts[0]), *later.unbind(0))

    def merge(self, dtype: torch.dtype = torch.float32) -> None:
        """Merge all branches into one convolution, batch norm included, for a constant network.

        Nothing is done if the branches are not plain convolutions, or would overflow in `dtype`.
        """
        blocks = [cast(nn.Sequential, b) for b in (self.head_pre, *self.ear)]
        if not all(map(_is_plain, blocks)):
            return
        convs = [copy.deepcopy(cast(nn.Conv2d, b[0])) for b in blocks]
        norms = [b[1] for b in blocks]
        pairs = zip(convs, norms, strict=True)
        if not all(fold_into(conv, norm, dtype) for conv, norm in pairs if isinstance(norm, nn.BatchNorm2d)):
            return
        wide = nn.Conv2d(convs[0].in_channels, sum(c.out_channels for c in convs), 3, padding=1).to(convs[0].weight)
        wide.weight.copy_(torch.cat([c.weight for c in convs]))
        cast(Tensor, wide.bias).copy_(torch.cat([cast(Tensor, c.bias) for c in convs]))
        self.merged = nn.Sequential(wide, nn.ReLU())
        self.head_pre, self.ear = nn.Sequential(), nn.ModuleList()


def _is_plain(block: nn.Module) -> bool:
    """Whether a branch is a plain convolution with what follows it."""
    return isinstance(block, nn.Sequential) and isinstance(block[0], nn.Conv2d)


class PlainHead(nn.Module):
    """One branch, and a 1x1 classifier that gets new rows with every step (stored as one tensor pair per step).

    At step 0 its tensors have the names and shapes of `GroupedHead`'s.

    Args:
        aspp: turns the backbone's feature maps into the common feature.
        channels: D, of every branch.
        group_sizes: classes per step without background.
    """

    def __init__(self, aspp: Neck, channels: int, group_sizes: Sequence[int]) -> None:
        super().__init__()
        self.aspp = aspp
        self.head_pre = conv_block(aspp.width, channels) if aspp.refine else nn.Identity()
        sizes = (1 + group_sizes[0], *group_sizes[1:])
        self.head = nn.ModuleList(classifier(aspp, channels, size) for size in sizes)

    def forward(self, features: Sequence[Tensor]) -> PlainOutput:
        """Compute logits from backbone features ``(N, B, h, w)``."""
        branch = self.head_pre(self.aspp(features))
        return PlainOutput(torch.cat([head(branch) for head in self.head], dim=1), features[-1], branch)

    @torch.no_grad()
    def start_newest_from(self, shares: Tensor) -> None:
        """Let the newest classes start as means of the old ones, in place; `shares` as for `GroupedHead`."""
        *older, newest = (cast(nn.Conv2d, h) for h in self.head)
        rows = [(h.weight, cast(Tensor, h.bias)) for h in older]
        start_as_mean(newest.weight, cast(Tensor, newest.bias), rows, shares)


class DecomposedOutput(NamedTuple):
    """Output of DKD's classifier.

    Attributes:
        logits: ``(N, 1 + classes, h, w)``; channel 0 is the auxiliary classifier, not background.
        positive: reasoning scores by the positive weights, ``(N, classes, h, w)``.
        negative: by the negative weights.
    """

    logits: Tensor
    positive: Tensor
    negative: Tensor


class DecomposedHead(nn.Module):
    """One branch, an auxiliary classifier, and a 1x1 classifier per step; none for background (spec/dkd.md 2 and 3).

    Args:
        aspp: turns the backbone's feature maps into the common feature.
        channels: D, of every branch.
        group_sizes: classes per step without background.
    """

    def __init__(self, aspp: Neck, channels: int, group_sizes: Sequence[int]) -> None:
        super().__init__()
        self.aspp = aspp
        self.head_pre = conv_block(aspp.width, channels)
        self.aux = nn.Conv2d(channels, 1, 1)
        self.head = nn.ModuleList(nn.Conv2d(channels, size, 1) for size in group_sizes)

    def forward(self, features: Sequence[Tensor]) -> DecomposedOutput:
        """Compute logits and scores from backbone features ``(N, B, h, w)``."""
        return self.classify(self.head_pre(self.aspp(features)))

    def classify(self, branch: Tensor) -> DecomposedOutput:
        """Compute logits and scores from the classifier's input ``(N, D, h, w)``, which is not negative."""
        logits = torch.cat([self.aux(branch.detach()), *(head(branch) for head in self.head)], dim=1)
        weight = torch.cat([cast(nn.Conv2d, head).weight for head in self.head])
        positive = nn.functional.conv2d(branch, weight * (weight > 0))
        negative = nn.functional.conv2d(branch, weight * (weight < 0))
        return DecomposedOutput(logits, positive, negative)


class BinaryOutput(NamedTuple):
    """Output of a classifier without background, with what is needed to classify further features.

    Attributes:
        logits: ``(N, classes, h, w)``.
        branch: the classifier's input, ``(N, D, h, w)``, not negative.
        weight: of all classes, ``(classes, D)``.
        bias: of all classes, ``(classes,)``.
    """

    logits: Tensor
    branch: Tensor
    weight: Tensor
    bias: Tensor


class BinaryHead(nn.Module):
    """One branch and a 1x1 classifier per step; none for background (spec/star.md section 2).

    Args:
        aspp: turns the backbone's feature maps into the common feature.
        channels: D, of every branch.
        group_sizes: classes per step without background.
    """

    def __init__(self, aspp: Neck, channels: int, group_sizes: Sequence[int]) -> None:
        super().__init__()
        self.aspp = aspp
        self.head_pre = conv_block(aspp.width, channels)
        self.head = nn.ModuleList(nn.Conv2d(channels, size, 1) for size in group_sizes)

    def forward(self, features: Sequence[Tensor]) -> BinaryOutput:
        """Compute logits from backbone features ``(N, B, h, w)``."""
        return self.classify(self.head_pre(self.aspp(features)))

    def classify(self, branch: Tensor) -> BinaryOutput:
        """Compute logits from the classifier's input ``(N, D, h, w)``."""
        logits = torch.cat([head(branch) for head in self.head], dim=1)
        weight = torch.cat([cast(nn.Conv2d, head).weight.flatten(1) for head in self.head])
        bias = torch.cat([cast(Tensor, head.bias) for head in self.head])
        return BinaryOutput(logits, branch, weight, bias)


class UnknownOutput(NamedTuple):
    """Output of SSUL's classifier: logits with the unknown class first, ``(N, 1 + C, h, w)``."""

    logits: Tensor


class UnknownHead(nn.Module):
    """A branch with its classifier for the unknown, for background, and for the classes of every step.

    Tensor names are the published ones. Source: spec/ssul.md section 4.

    Args:
        aspp: turns the backbone's feature maps into the common feature.
        channels: D, of every branch.
        group_sizes: classes per step without background.
    """

    def __init__(self, aspp: Neck, channels: int, group_sizes: Sequence[int]) -> None:
        super().__init__()
        self.aspp = aspp
        self.head = nn.ModuleList(
            nn.Sequential(*conv_block(aspp.width, channels), nn.Conv2d(channels, size, 1))
            for size in (1, 1, *group_sizes)
        )

    def forward(self, features: Sequence[Tensor]) -> UnknownOutput:
        """Compute logits from backbone features ``(N, B, h, w)``."""
        feature = self.aspp(features)
        return UnknownOutput(torch.cat([head(feature) for head in self.head], dim=1))
