"""Segmentation networks of torchvision."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import segmentation
from torchvision.models.segmentation.lraspp import LRASPPHead

NAMES = (
    "fcn_resnet50",
    "fcn_resnet101",
    "deeplabv3_resnet50",
    "deeplabv3_resnet101",
    "deeplabv3_mobilenet_v3_large",
    "lraspp_mobilenet_v3_large",
)
LOW, HIGH, JOINED = "classifier.low_classifier", "classifier.high_classifier", "classifier.last"


def build(architecture: Mapping[str, Any]) -> nn.Module:
    """Build the network that `name` says, for any number of classes, without its auxiliary classifier."""
    name = architecture["name"]
    if name not in NAMES:
        raise ValueError(f"unknown name {name!r}")
    more = {} if name.startswith("lraspp") else {"aux_loss": False}
    network: nn.Module = getattr(segmentation, name)(weights=None, weights_backbone=None, num_classes=2, **more)
    if name.startswith("lraspp"):
        network.classifier = JoinedHead(cast(LRASPPHead, network.classifier))
    return network


class JoinedHead(nn.Module):
    """Head of LR-ASPP whose two classifiers, which are added, are one on both feature maps side by side.

    Args:
        head: torchvision's; its other modules are taken.
    """

    def __init__(self, head: LRASPPHead) -> None:
        super().__init__()
        self.cbr, self.scale = head.cbr, head.scale
        low, high = head.low_classifier, head.high_classifier
        self.last = nn.Conv2d(low.in_channels + high.in_channels, low.out_channels, 1)

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Feature maps ``low`` and ``high`` -> logits at the size of the former, ``(N, C, h, w)``."""
        low, high = features["low"], features["high"]
        x = F.interpolate(self.cbr(high) * self.scale(high), size=low.shape[2:], mode="bilinear", align_corners=False)
        logits: Tensor = self.last(torch.cat([low, x], dim=1))
        return logits


def joined(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Join the two classifiers of LR-ASPP in a state dict; another network's stays as it is."""
    if f"{LOW}.weight" not in state:
        return dict(state)
    rest = {name: tensor for name, tensor in state.items() if not name.startswith((LOW, HIGH))}
    weight = torch.cat([state[f"{LOW}.weight"], state[f"{HIGH}.weight"]], dim=1)
    return {**rest, f"{JOINED}.weight": weight, f"{JOINED}.bias": state[f"{LOW}.bias"] + state[f"{HIGH}.bias"]}


def parted(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Split the joined classifier again: the inverse of `joined`, with the whole bias in one of the two."""
    if f"{JOINED}.weight" not in state:
        return dict(state)
    rest = {name: tensor for name, tensor in state.items() if not name.startswith(JOINED)}
    weight, bias = state[f"{JOINED}.weight"], state[f"{JOINED}.bias"]
    high = state["classifier.cbr.0.weight"].shape[0]
    low, deep = weight[:, :-high].clone(), weight[:, -high:].clone()
    return {
        **rest,
        f"{LOW}.weight": low,
        f"{LOW}.bias": torch.zeros_like(bias),
        f"{HIGH}.weight": deep,
        f"{HIGH}.bias": bias,
    }
