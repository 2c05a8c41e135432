"""Batch norm in training: with statistics shared between processes, or frozen into a convolution.

`ordinary` converts back to a plain network, also from one with adapters.
"""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from timm.layers.norm_act import BatchNormAct2d, FrozenBatchNormAct2d, SyncBatchNormAct, convert_sync_batchnorm
from torch import Tensor, nn
from torchvision.ops.misc import FrozenBatchNorm2d

from barm.errors import UserError
from barm.models.adapters import is_adapted, merged
from barm.models.reclassed import Reclassed, revert

SHAREABLE = (nn.BatchNorm2d, BatchNormAct2d, nn.SyncBatchNorm, SyncBatchNormAct)  # exactly these, no class made of them
NO_BATCH = (FrozenBatchNorm2d, FrozenBatchNormAct2d, nn.modules.instancenorm._InstanceNorm)  # statistics of no batch


def synchronised(network: nn.Module, frozen: nn.Module | None = None) -> nn.Module:
    """Let every batch norm compute its statistics over the batches of all processes, in place.

    timm's converter does it, since torch's loses the activation inside timm's `BatchNormAct2d`.

    Args:
        network: any; its parameters and buffers stay the same objects.
        frozen: a child of it that stays as it is, since its batch norm does not train.

    Raises:
        UserError: if it holds a normalisation with running statistics that cannot be shared.
    """
    if frozen is not None:
        for name, child in network.named_children():
            if child is not frozen:
                setattr(network, name, synchronised(child))
        return network
    for name, module in network.named_modules():
        has_statistics = isinstance(getattr(module, "running_var", None), Tensor) and not isinstance(module, NO_BATCH)
        if (has_statistics or isinstance(module, nn.modules.batchnorm._BatchNorm)) and type(module) not in SHAREABLE:
            raise UserError(
                f"{name} is a {type(module).__name__}, whose statistics cannot be shared between GPUs: train on one "
                "GPU, choose another backbone, or freeze batch norm with --set method.freeze_bn=true (from step 1 on)"
            )
    shared: nn.Module = convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
    return shared


def ordinary(network: nn.Module) -> nn.Module:
    """Convert to an ordinary network with plain batch norm and merged adapters, whatever wrappers training used.

    Args:
        network: not changed.

    Returns:
        The network itself where it is ordinary, else a copy that has its parameters and buffers. Only the weights of
        layers with adapters are new.
    """
    kinds = (nn.SyncBatchNorm, NormedConv, Reclassed)
    if not any(isinstance(module, kinds) or is_adapted(module) for module in network.modules()):
        return network
    tensors = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
    return _ordinary(copy.deepcopy(network, tensors))  # a copy that takes these as they are


def affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Scale and shift per channel that a batch norm with running statistics applies in evaluation mode, ``(C,)``."""
    mean, variance = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
    scale = torch.rsqrt(variance + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight
    shift = -mean * scale
    return scale, shift if norm.bias is None else shift + norm.bias


class NormedConv(nn.Conv2d):
    """A convolution without bias that includes the frozen batch norm after it: ``a (w * x) + b``.

    As one convolution, with the weight ``a w`` and the bias b; the gradient reaches w. In the backward pass nothing of
    the size of a feature map is left to do (docs/speed.md says what that saves).
    """

    scale: Tensor
    shift: Tensor
    norm: tuple[nn.BatchNorm2d]  # in a tuple, since it is not a part of this module

    @torch.no_grad()
    def refresh(self) -> None:
        """Update scale and shift from the batch norm."""
        for name, value in zip(("scale", "shift"), affine(self.norm[0]), strict=True):
            self.register_buffer(name, value, persistent=False)

    def forward(self, input: Tensor) -> Tensor:
        """``(N, B, H, W)`` -> ``(N, C, h, w)``."""
        result: Tensor = self._conv_forward(input, self.weight * self.scale.view(-1, 1, 1, 1), self.shift)
        return result


class PassedNorm(nn.BatchNorm2d):
    """Placeholder for a frozen batch norm whose work a `NormedConv` does."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the input."""
        return input


class PassedNormAct(BatchNormAct2d):
    """Placeholder for a frozen `BatchNormAct2d` whose batch norm a `NormedConv` computes; the activation is left."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply the activation."""
        activated: Tensor = self.act(self.drop(x))
        return activated


PASSED: dict[type[nn.Module], type[nn.Module]] = {nn.BatchNorm2d: PassedNorm, BatchNormAct2d: PassedNormAct}


def take_in(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    """Let a convolution compute the frozen batch norm after it, both changed in place. `ordinary` reverts it.

    Tensors, their names, and what `isinstance` says stay the same.
    """
    merged, passed = cast(Any, conv), cast(Any, norm)
    merged.__class__, passed.__class__ = NormedConv, PASSED[type(norm)]
    merged.norm = (norm,)
    merged.refresh()


def refresh(network: nn.Module) -> None:
    """Update a network's `NormedConv`s after a state was loaded into it."""
    for module in network.modules():
        if isinstance(module, NormedConv):
            module.refresh()


def _ordinary(module: nn.Module) -> nn.Module:
    revert(module)
    for name, child in module.named_children():
        setattr(module, name, _ordinary(child))
    if isinstance(module, NormedConv):
        for name in ("scale", "shift", "norm"):
            delattr(module, name)
        module.__class__ = nn.Conv2d  # type: ignore[assignment]
    elif isinstance(module, PassedNorm | PassedNormAct):
        module.__class__ = type(module).__mro__[1]
    if is_adapted(module):
        return merged(module)
    return _unshared(module) if isinstance(module, nn.SyncBatchNorm) else module


def _unshared(norm: nn.SyncBatchNorm) -> nn.BatchNorm2d:
    make: Any = BatchNormAct2d if isinstance(norm, SyncBatchNormAct) else nn.BatchNorm2d
    with torch.device("meta"):  # its tensors are those of `norm`
        result: nn.BatchNorm2d = make(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    if isinstance(norm, SyncBatchNormAct):
        result.drop, result.act = norm.drop, norm.act
    result._parameters, result._buffers = dict(norm._parameters), dict(norm._buffers)
    return result.train(norm.training)
