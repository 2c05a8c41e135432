"""Methods in which every class is a binary problem and background is the absence of all, as DKD's."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from barm.methods.base import Config, Method, Out
from barm.ops.upsampled import map_pixels


class BinaryMethod(Method[Out, Config]):
    """A method whose network has a logit for every class and none for background. Source: spec/dkd.md section 9.1."""

    def scores(self, out: Out) -> Tensor:
        """`decided` at feature resolution, ``(N, C, h, w)``."""
        return self.decided(self.upsampled(out))

    def upsampled(self, out: Out) -> Tensor:
        """The logits of the classes, ``(N, C - 1, h, w)``."""
        return out.logits

    def decided(self, values: Tensor) -> Tensor:
        """Probabilities of the classes, and for background 1 minus the largest, ``(N, C, H, W)``."""
        return _with_background(torch.sigmoid(values))

    def confidence(self, out: Out, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Largest probability per pixel and its channel. Logits are upsampled first."""
        best, channel = map_pixels(
            lambda logits: tuple(self.decided(logits).max(dim=1)), self.upsampled(out), size=size
        )
        return best, channel

    def predict(self, out: Out, size: tuple[int, int]) -> Tensor:
        """Predict the likeliest class where its probability is above a half, else background."""
        labels: Tensor = map_pixels(_likeliest, self.upsampled(out), size=size)
        return labels

    def train_mode(self, model: nn.Module) -> None:
        """Put the network into training mode. From step 1 on, dropout is off and batch norm frozen."""
        super().train_mode(model)
        if self.step.index:
            for module in model.modules():
                if isinstance(module, nn.Dropout):
                    module.eval()


def _with_background(probability: Tensor) -> Tensor:
    """Prepend background as 1 minus the likeliest class, ``(N, C - 1, h, w)`` -> ``(N, C, h, w)``."""
    return torch.cat([1 - probability.amax(dim=1, keepdim=True), probability], dim=1)


def _likeliest(logits: Tensor) -> Tensor:
    best, channel = torch.sigmoid(logits).max(dim=1)
    return torch.where(best > 0.5, channel + 1, 0)
