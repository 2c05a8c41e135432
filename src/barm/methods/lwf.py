"""LwF and ILT: distillation of the old outputs, and of the encoder's features. Source: spec/mib.md sections 4 and 5."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from torch import Tensor

from barm.batch import Batch, Term
from barm.labels import Step
from barm.losses.unbiased import distillation, feature_distillation, unbiased_cross_entropy
from barm.methods.base import Factor, Weight
from barm.methods.finetune import SoftmaxConfig, SoftmaxMethod
from barm.models.heads import PlainOutput
from barm.models.segmenter import NetworkConfig
from barm.ops.upsampled import sum_all, sum_pixels


class DistillationConfig(SoftmaxConfig):
    """Settings that LwF and ILT share.

    Attributes:
        distillation_weight: of the distillation of the outputs.
        feature_weight: of the distillation of the encoder's last feature map.
        alpha: factor on the previous model's logits in the distillation.
    """

    terms: ClassVar[Mapping[str, str]] = {
        "ce": "Cross-entropy against the labels.",
        "kd": "Distillation: the probabilities of the old classes stay those of the previous network.",
        "features": "Distillation of the features: the encoder's last feature map stays that of the previous network.",
    }
    distillation: ClassVar[frozenset[str]] = frozenset({"kd", "features"})
    warms: ClassVar[bool] = True

    distillation_weight: Weight = 100.0
    feature_weight: Weight = 0.0
    alpha: Factor = 1.0

    def build(self, step: Step, network: NetworkConfig) -> LwF:
        """LwF or ILT at one step."""
        return LwF(self, step, network)


class LwFConfig(DistillationConfig):
    """LwF (ECCV 2016, as used for segmentation): the old classes' probabilities are distilled."""

    name: Literal["lwf"] = "lwf"


class ILTConfig(DistillationConfig):
    """ILT (ICCV workshops 2019): LwF, and the encoder's features are distilled too."""

    name: Literal["ilt"] = "ilt"
    feature_weight: Weight = 100.0


class LwF(SoftmaxMethod[DistillationConfig]):
    """LwF at one step; with a feature weight, ILT."""

    uses_teacher = True

    def loss(self, new: PlainOutput, old: PlainOutput | None, batch: Batch) -> dict[str, Term]:
        """Cross-entropy, from step 1 on with distillation."""
        weight = self.config.feature_weight
        if old is None:
            return {"ce": sum_pixels(unbiased_cross_entropy, new.logits, batch.label)}
        terms = sum_all(self._objective, new.logits, batch.label, old=[old.logits])
        return {**terms, "features": feature_distillation(new.feature, old.feature, weight=weight)} if weight else terms

    def _objective(self, logits: Tensor, old: Tensor, label: Tensor) -> dict[str, Term]:
        """Terms at the labels' size."""
        config = self.config
        return {
            "ce": unbiased_cross_entropy(logits, label),
            "kd": distillation(logits, old, alpha=config.alpha, weight=config.distillation_weight),
        }
