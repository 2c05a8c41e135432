"""MiB: modelling the background (Cermelli et al., CVPR 2020, arXiv 2002.00718).

The label "background" may hide old classes, and the previous model's "background" new ones. Both losses model this,
and the new classifier rows start from the background's. Source: spec/mib.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from barm.batch import Batch, Term
from barm.labels import Step
from barm.losses.unbiased import unbiased_cross_entropy, unbiased_distillation
from barm.methods.base import Config, Factor, Weight
from barm.methods.finetune import SoftmaxConfig, SoftmaxMethod
from barm.models.heads import PlainHead, PlainOutput
from barm.models.segmenter import NetworkConfig
from barm.ops.upsampled import sum_all, sum_pixels


class MiBConfig(SoftmaxConfig):
    """MiB (CVPR 2020): cross-entropy and distillation that model the classes hidden in "background".

    Attributes:
        distillation_weight: lambda of the distillation.
        alpha: factor on the previous model's logits in the distillation.
    """

    terms: ClassVar[Mapping[str, str]] = {
        "ce": "Cross-entropy against the labels (step 0).",
        "unce": "Unbiased cross-entropy: the label background means background or any old class.",
        "unkd": "Unbiased distillation: the previous network's background may be background or a new class.",
    }
    distillation: ClassVar[frozenset[str]] = frozenset({"unkd"})
    warms: ClassVar[bool] = True

    name: Literal["mib"] = "mib"
    distillation_weight: Weight = 10.0
    alpha: Factor = 1.0

    def build(self, step: Step, network: NetworkConfig) -> MiB:
        """MiB at one step."""
        return MiB(self, step, network)


class BackgroundInitialised(SoftmaxMethod[Config]):
    """A growing classifier whose new rows start from the background's."""

    def init_from(self, model: nn.Module, previous: nn.Module) -> None:
        """Copy tensors of equal names. New classes share the background's former probability with it (section 6).

        A network that never predicts background has none to share; its new rows stay random.
        """
        super().init_from(model, previous)
        if self.network.adopted is not None and self.network.adopted.background == "none":
            return
        head = cast(PlainHead, model.classifier).head
        first, new = cast(nn.Conv2d, head[0]), cast(nn.Conv2d, head[-1])
        with torch.no_grad():
            new.weight.copy_(first.weight[:1].expand_as(new.weight))
            self._start_biases(_bias(first), _bias(new))

    def _start_biases(self, first: Tensor, new: Tensor) -> None:
        """Set the biases of step 0, the background's first, and those of the new classes, in place."""
        first[0] -= math.log(1 + len(self.step.new))
        new.copy_(first[:1].expand_as(new))


class MiB(BackgroundInitialised[MiBConfig]):
    """MiB at one step."""

    uses_teacher = True

    def loss(self, new: PlainOutput, old: PlainOutput | None, batch: Batch) -> dict[str, Term]:
        """Cross-entropy, from step 1 on unbiased and with unbiased distillation (section 5)."""
        if old is None:
            return {"ce": sum_pixels(unbiased_cross_entropy, new.logits, batch.label)}
        return sum_all(self._objective, new.logits, batch.label, old=[old.logits])

    def _objective(self, logits: Tensor, old: Tensor, label: Tensor) -> dict[str, Term]:
        """Both terms at the labels' size."""
        config = self.config
        return {
            "unce": unbiased_cross_entropy(logits, label, num_old=self.step.num_old),
            "unkd": unbiased_distillation(logits, old, alpha=config.alpha, weight=config.distillation_weight),
        }


def _bias(conv: nn.Conv2d) -> Tensor:
    return cast(Tensor, conv.bias)
