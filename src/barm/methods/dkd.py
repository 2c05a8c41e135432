"""DKD: decomposed knowledge distillation (Baek et al., NeurIPS 2022, arXiv 2210.05941).

Every class is a binary problem, and background is the absence of all. Distillation keeps the old classes' logits, and
separately their positive and negative parts. New classes start from an auxiliary classifier that was trained on
negatives alone. Source: spec/dkd.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from barm.batch import Batch, Term
from barm.data.exemplars import MemoryConfig
from barm.labels import Step
from barm.losses.common import sigmoid_distillation
from barm.losses.decomposed import auxiliary_loss, multiple_binary_cross_entropy
from barm.methods.base import Factor, MethodConfig, Weight
from barm.methods.binary import BinaryMethod
from barm.methods.groups import ParamGroup, Rates, group
from barm.models.heads import DecomposedHead, DecomposedOutput
from barm.models.segmenter import NetworkConfig, build_network, hand_over
from barm.ops.upsampled import sum_all


class DKDConfig(MethodConfig):
    """DKD (NeurIPS 2022): distils logits and the scores for and against each class; no background classifier.

    Attributes:
        kd_weight: of the distillation of the logits.
        positive_weight: of the distillation of the positive scores.
        negative_weight: of the distillation of the negative scores.
        auxiliary_weight: of the auxiliary classifier's loss.
        base_pos_weight: factor on positive pixels at step 0.
        pos_weight: factor on positive pixels later.
    """

    terms: ClassVar[Mapping[str, str]] = {
        "mbce": "Binary cross-entropy of each new class against the labels.",
        "ac": "Loss of the auxiliary classifier, which learns to say no; later classes start from it.",
        "kd": "Distillation of the logits: the old classes keep those of the previous network.",
        "dkd_pos": "Distillation of what speaks for each old class (positive scores).",
        "dkd_neg": "Distillation of what speaks against each old class (negative scores).",
    }
    distillation: ClassVar[frozenset[str]] = frozenset({"kd", "dkd_pos", "dkd_neg"})

    name: Literal["dkd"] = "dkd"
    kd_weight: Weight = 5.0
    positive_weight: Weight = 5.0
    negative_weight: Weight = 5.0
    auxiliary_weight: Weight = 1.0
    base_pos_weight: Factor = 2.0
    pos_weight: Factor = 1.0

    @property
    def base_training(self) -> dict[str, Any]:
        """Binary cross-entropy per class and that of the auxiliary classifier, with their weights at step 0."""
        weights = {"base_pos_weight": self.base_pos_weight, "auxiliary_weight": self.auxiliary_weight}
        return {"objective": "binary problems with an auxiliary classifier", **weights}

    def build(self, step: Step, network: NetworkConfig) -> DKD:
        """DKD at one step."""
        return DKD(self, step, network)


class DKDMConfig(DKDConfig):
    """DKD-M: DKD with an exemplar memory, whose images are added to the step's and labelled like them."""

    name: Literal["dkd-m"] = "dkd-m"  # type: ignore[assignment]
    memory: MemoryConfig | None = MemoryConfig(size=100, labels="step", mix="append", threshold=0.9)


class DKD(BinaryMethod[DecomposedOutput, DKDConfig]):
    """DKD at one step."""

    uses_teacher = True

    def build_model(self) -> nn.Module:
        """Backbone, ASPP with one more convolution, the auxiliary classifier, one classifier per step."""
        return build_network(self.network, DecomposedHead, self.step.group_sizes, pretrained=self.step.index == 0)

    def init_from(self, model: nn.Module, previous: nn.Module) -> None:
        """Copy tensors of equal names. Every new class starts as the auxiliary classifier (section 5)."""
        hand_over(model, previous, new=[f"classifier.head.{self.step.index}."])
        head = cast(DecomposedHead, model.classifier)
        newest = cast(nn.Conv2d, head.head[-1])
        with torch.no_grad():
            newest.weight.copy_(head.aux.weight.expand_as(newest.weight))
            cast(Tensor, newest.bias).copy_(cast(Tensor, head.aux.bias).expand(newest.out_channels))

    def loss(self, new: DecomposedOutput, old: DecomposedOutput | None, batch: Batch) -> dict[str, Term]:
        """The terms of section 4. Scores are compared at feature resolution, everything else at the labels' size."""
        config, count = self.config, self.step.num_old - 1
        if old is None:
            return sum_all(self._base_objective, new.logits, batch.label)
        return {
            **sum_all(self._objective, new.logits, batch.label, old=[old.logits[:, 1:]]),
            "dkd_pos": sigmoid_distillation(new.positive[:, :count], old.positive, weight=config.positive_weight),
            "dkd_neg": sigmoid_distillation(new.negative[:, :count], old.negative, weight=config.negative_weight),
        }

    def _base_objective(self, logits: Tensor, label: Tensor) -> dict[str, Term]:
        """Terms of the labels at their size."""
        config, known = self.config, self.step.num_old
        weight = config.pos_weight if self.step.index else config.base_pos_weight
        return {
            "mbce": multiple_binary_cross_entropy(logits[:, known:], label, first=known, positive_weight=weight),
            "ac": auxiliary_loss(logits[:, 0])._replace(weight=config.auxiliary_weight),
        }

    def _objective(self, logits: Tensor, old: Tensor, label: Tensor) -> dict[str, Term]:
        """Terms of the labels, and the distillation of the logits."""
        kept = sigmoid_distillation(logits[:, 1 : self.step.num_old], old, weight=self.config.kd_weight)
        return {**self._base_objective(logits, label), "kd": kept}

    def upsampled(self, out: DecomposedOutput) -> Tensor:
        """The logits of the classes, ``(N, C - 1, h, w)``."""
        return out.logits[:, 1:]

    def param_groups(self, model: nn.Module, rates: Rates) -> list[ParamGroup]:
        """Parameter groups. From step 1 on, only the newest classifier has weight decay (section 6)."""
        head, take, first = cast(DecomposedHead, model.classifier), self.trainable, self.step.index == 0
        return [
            group("new_head", take(head.head[-1]), rates.new),
            group("aspp", take(head.aspp, head.head_pre), rates.aspp, decay=first),
            group("old_heads", take(head.aux, *head.head[:-1]), rates.new if first else rates.old, decay=first),
            group("backbone", take(cast(nn.Module, model.backbone)), rates.backbone, decay=first),
        ]
