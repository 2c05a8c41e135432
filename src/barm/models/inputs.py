"""Normalisation of images: mean, deviation and order of colours that a network's weights need."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import timm
import torch
from torch import Tensor, nn

from barm.errors import UserError

Triple = tuple[float, float, float]
Order = Literal["rgb", "bgr"]
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class InputRule(NamedTuple):
    """Rule by which images are normalised.

    Attributes:
        mean: per channel of the network's input, of values in 0..1.
        std: likewise. A network of values in 0..255 has a mean of 0 and a deviation of 1/255.
        order: of the channels.
    """

    mean: Triple = IMAGENET_MEAN
    std: Triple = IMAGENET_STD
    order: Order = "rgb"


def timm_rule(backbone: str) -> InputRule:
    """Rule with which timm's weights of a backbone were trained; ImageNet's for names that timm does not know.

    Raises:
        UserError: for a model on a hub, whose rule is not known before it is fetched.
    """
    if ":" in backbone:
        raise UserError(
            f"how '{backbone}' wants its images is not known here: give model.mean and model.std, three numbers each "
            "for values in 0..1, as its description says"
        )
    known: Any = timm.get_pretrained_cfg(backbone) if timm.is_model(backbone.split(".")[0]) else None
    return InputRule() if known is None else InputRule(tuple(known.mean), tuple(known.std))


class Normalise(nn.Module):
    """Normalise stored images for the network's weights, as its first layer.

    The numbers are no tensors of the state dict; they are kept with the configuration (``method.json``).

    Args:
        rule: mean, deviation, order.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, rule: InputRule) -> None:
        super().__init__()
        self.rule = rule
        for name, values in (("mean", rule.mean), ("std", rule.std)):
            self.register_buffer(name, 255 * torch.tensor(values).view(1, 3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """Normalise RGB ``(N, 3, H, W)`` uint8 to float32. Floating point input is normalised already."""
        if image.is_floating_point():
            return image
        if self.rule.order == "bgr":
            image = image.flip(1)
        return image.float().sub_(self.mean).div_(self.std)
