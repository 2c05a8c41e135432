"""Batch norm that shares its statistics between processes while it trains, and the way back to an ordinary network."""

from __future__ import annotations

import copy
from typing import Any

import torch
from timm.layers.norm_act import BatchNormAct2d, FrozenBatchNormAct2d, SyncBatchNormAct, convert_sync_batchnorm
from torch import Tensor, nn
from torchvision.ops.misc import FrozenBatchNorm2d

from barm.errors import UserError

SHAREABLE = (nn.BatchNorm2d, BatchNormAct2d, nn.SyncBatchNorm, SyncBatchNormAct)  # exactly these, no class made of them
NO_BATCH = (FrozenBatchNorm2d, FrozenBatchNormAct2d, nn.modules.instancenorm._InstanceNorm)  # statistics of no batch


def synchronised(network: nn.Module) -> nn.Module:
    """The network with every batch norm computing its statistics over the batches of all processes; changed in place.

    timm's converter does it, since torch's loses the activation inside timm's `BatchNormAct2d`.

    Args:
        network: any; its parameters and buffers stay the same objects.

    Raises:
        UserError: if it holds a normalisation with running statistics that cannot be shared.
    """
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
    """The network as any program knows it, whatever trained it: batch norm that shares nothing.

    Args:
        network: not changed.

    Returns:
        The network itself where it is ordinary, else a copy that has its parameters and buffers.
    """
    if not any(isinstance(module, nn.SyncBatchNorm) for module in network.modules()):
        return network
    tensors = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
    return _ordinary(copy.deepcopy(network, tensors))  # a copy that takes these as they are


def _ordinary(module: nn.Module) -> nn.Module:
    for name, child in module.named_children():
        setattr(module, name, _ordinary(child))
    return _unshared(module) if isinstance(module, nn.SyncBatchNorm) else module


def _unshared(norm: nn.SyncBatchNorm) -> nn.BatchNorm2d:
    make: Any = BatchNormAct2d if isinstance(norm, SyncBatchNormAct) else nn.BatchNorm2d
    with torch.device("meta"):  # its tensors are those of `norm`
        result: nn.BatchNorm2d = make(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    if isinstance(norm, SyncBatchNormAct):
        result.drop, result.act = norm.drop, norm.act
    result._parameters, result._buffers = dict(norm._parameters), dict(norm._buffers)
    return result.train(norm.training)
