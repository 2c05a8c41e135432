"""BARM: background adaptation with residual modelling (Zhang & Gao, ECCV 2024, arXiv 2407.09838).

Every step adds a branch whose first channel a_t corrects the background logit of the model before it. Old classifiers
are stable: their classes get no gradient from the labels, only from distillation. Source: spec/barm.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from barm.batch import Batch, Term
from barm.labels import Step
from barm.losses.background import (
    background_distillation,
    group_distillation,
    old_classes_absent,
    residual_cross_entropy,
    residual_triplet,
    step_masks,
)
from barm.losses.common import class_histogram, probabilities, pseudo_labels, sure_thresholds, sureness
from barm.losses.segmentation import segmentation
from barm.methods.base import Method, MethodConfig, Weight
from barm.methods.groups import ParamGroup, Rates, group
from barm.models.aggregation import aggregate, residuals
from barm.models.heads import GroupedHead, GroupedOutput
from barm.models.segmenter import NetworkConfig, build_network, hand_over
from barm.ops.upsampled import map_pixels


class BARMConfig(MethodConfig):
    """BARM (ECCV 2024): residuals adapt the background, and knowledge is distilled in groups.

    Attributes:
        pseudo: label confident old pixels with the previous model's class.
        pseudo_threshold: tau, on the previous model's probability; 1 accepts none.
        pseudo_share: of the background that the previous model takes for an old class, at least this share is labelled,
            the surest pixels, though their probability be below tau; 0 labels no more than tau says.
        triplet_weight: of the background adaptation triplet.
        residual_weight: of the background adaptation cross-entropy.
        feature_weight: of the background feature distillation.
        group_weight: of the group knowledge distillation.
        yield_weight: of the old classes' absence where a new class is labelled, where they are then not distilled; 0
            leaves them to the distillation everywhere, as published.
        residual: which residuals correct a pixel's background when it is predicted: those of `all` steps, as published,
            or its `own`, that of the step of its most probable class, so that many steps do not wear it down.
        copy_ear_statistics: let a new ear take head_pre's batch norm statistics too. Off as published, where they
            stay 0 and 1 for ever under frozen batch norm (spec/barm.md section 7).
    """

    terms: ClassVar[Mapping[str, str]] = {
        "pb_bce": "Binary cross-entropy of the new classes and the background against the labels, where confident old "
        "pixels have the previous network's class (pseudo-labels).",
        "bga_triplet": "Background adaptation, triplet: on the step's background the residual's probability is to be "
        "nearer to 1 than to 0, so that the background stays.",
        "bga_bce": "Background adaptation, cross-entropy: on the step's new classes the residual is to be negative, so "
        "that the background gives way.",
        "bfd": "Background feature distillation: on the step's background the features stay those of the previous "
        "network.",
        "gkd": "Group knowledge distillation: each earlier head keeps the probabilities of the previous network.",
        "absent": "Binary cross-entropy of the old classes against their absence, where a new class is labelled (an "
        "option of ours).",
    }
    distillation: ClassVar[frozenset[str]] = frozenset({"gkd"})
    warms: ClassVar[bool] = True
    balances: ClassVar[bool] = True

    name: Literal["barm"] = "barm"
    pseudo: bool = True
    pseudo_threshold: float = Field(0.7, ge=0, le=1)
    pseudo_share: float = Field(0.0, ge=0, le=1)
    triplet_weight: Weight = 5.0
    residual_weight: Weight = 1.0
    feature_weight: Weight = 4.0
    group_weight: Weight = 1.0
    yield_weight: Weight = 0.0
    residual: Literal["all", "own"] = "all"
    copy_ear_statistics: bool = False

    @model_validator(mode="after")
    def _share_of_pseudo_labels(self) -> Self:
        if self.pseudo_share and not self.pseudo:
            raise ValueError("pseudo_share is a share of pseudo-labels, and pseudo is false: leave one of the two out")
        return self

    @property
    def base_training(self) -> dict[str, Any]:
        """The segmentation loss of the labels."""
        return self.labelled_training

    def ears(self, index: int) -> int:
        """One for every step after the first."""
        return index

    def build(self, step: Step, network: NetworkConfig) -> BARM:
        """BARM at one step."""
        return BARM(self, step, network)


class BARM(Method[GroupedOutput, BARMConfig]):
    """BARM at one step."""

    uses_teacher = True

    def __init__(self, config: BARMConfig, step: Step, network: NetworkConfig) -> None:
        super().__init__(config, step, network)
        self.calibrates = step.index > 0 and config.pseudo_share > 0
        self._thresholds = torch.full((step.num_old,), config.pseudo_threshold)

    def build_model(self) -> nn.Module:
        """Backbone, ASPP, and one branch per step."""
        return build_network(self.network, GroupedHead, self.step.group_sizes, pretrained=self.step.index == 0)

    def init_from(self, model: nn.Module, previous: nn.Module) -> None:
        """Copy tensors of equal names. The new ear starts as head_pre; the new head stays random."""
        newest = self.step.index
        hand_over(model, previous, new=[f"classifier.ear.{newest - 1}.", f"classifier.head.{newest}."])
        _head(model).start_newest_ear(statistics=self.config.copy_ear_statistics)

    def loss(self, new: GroupedOutput, old: GroupedOutput | None, batch: Batch) -> dict[str, Term]:
        """The five terms of spec/barm.md section 3; at step 0 only the segmentation loss."""
        config, label = self.config, batch.label
        if old is None:
            return {"pb_bce": segmentation(config.loss, new.logits, label, positive=self.class_weights(new.logits))}
        self._thresholds = self._thresholds.to(label.device)  # a copy once, after a resume
        if config.pseudo:
            threshold, softmax = self._threshold, config.loss != "bce"
            label = map_pixels(pseudo_labels, self._logits(old), label, threshold=threshold, softmax=softmax)
        learning = tuple(range(self.step.num_old, self.step.num_seen))  # all older classes are detached
        if not self._without_background:
            learning = (0, *learning)

        residual = new.heads[-1][:, 0]
        positive, negative = step_masks(batch.label, (residual.shape[1], residual.shape[2]))
        yields = config.yield_weight > 0
        absent = {"absent": old_classes_absent(new.heads, positive, weight=config.yield_weight)} if yields else {}
        return {
            "pb_bce": segmentation(
                config.loss,
                new.training_logits,
                label,
                trained=learning,
                positive=self.class_weights(label),
            ),
            "bga_triplet": residual_triplet(residual, negative, weight=config.triplet_weight),
            "bfd": background_distillation(
                new.branches, old.branches, negative, num_branches=len(old.heads), weight=config.feature_weight
            ),
            "gkd": group_distillation(
                new.heads, old.heads, weight=config.group_weight, without=positive if yields else None
            ),
            **absent,
            "bga_bce": residual_cross_entropy(residual, positive, weight=config.residual_weight),
        }

    def observe(self, old: GroupedOutput, batch: Batch) -> Tensor:
        """Count the background's pixels by the previous model's class and its probability, ``(K, 100)`` int64."""
        best, channel = map_pixels(sureness, self._logits(old), size=batch.size, softmax=self.config.loss != "bce")
        return class_histogram(best, channel, batch.label == 0, number=self.step.num_old)

    def calibrate(self, counts: Tensor) -> None:
        """Compute thresholds of the old classes."""
        config = self.config
        self._thresholds = sure_thresholds(counts, share=config.pseudo_share, most=config.pseudo_threshold)

    def state_dict(self) -> dict[str, Tensor]:
        """The thresholds, where the images decide them."""
        return {"thresholds": self._thresholds.cpu()} if self.calibrates else {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore `state_dict`."""
        if self.calibrates:
            self._thresholds = state["thresholds"].clone()

    @property
    def _threshold(self) -> float | Tensor:
        """On the previous model's probability, of all classes or by channel."""
        return self._thresholds if self.config.pseudo_share else self.config.pseudo_threshold

    def _logits(self, out: GroupedOutput) -> Tensor:
        """Logits aggregated as in evaluation, ``(N, C, h, w)``."""
        return aggregate(out.heads, own=self.config.residual == "own")

    def scores(self, out: GroupedOutput) -> Tensor:
        """Probabilities per class at feature resolution, ``(N, C, h, w)``."""
        return probabilities(self._logits(out), self.config.loss)

    def background_parts(self, out: GroupedOutput) -> tuple[Tensor, ...]:
        """Step 0's logit of background, then the residual of every later step."""
        return (out.heads[0][:, :1], *residuals(out.heads, own=self.config.residual == "own"))

    @property
    def _without_background(self) -> bool:
        """Whether the network never predicts background, whose constant logit no residual can lift."""
        return self.network.adopted is not None and self.network.adopted.background == "none"

    def param_groups(self, model: nn.Module, rates: Rates) -> list[ParamGroup]:
        """Parameter groups: newest head and ear at `new`, older ones at `old`, ASPP and backbone at theirs."""
        head, take = _head(model), self.trainable
        backbone = cast(nn.Module, model.backbone)
        if self.step.index == 0:
            return [
                group("head", take(head.head_pre, *head.head), rates.new),
                group("aspp", take(head.aspp), rates.aspp),
                group("backbone", take(backbone), rates.backbone),
            ]
        return [
            group("new_head", take(head.head[-1]), rates.new),
            group("new_ear", take(head.ear[-1]), rates.new),
            group("aspp", take(head.aspp), rates.aspp),
            group("old_heads", take(*head.head[:-1]), rates.old),
            group("old_ears", take(*head.ear[:-1]), rates.old),
            group("head_pre", take(head.head_pre), rates.old),
            group("backbone", take(backbone), rates.backbone),
        ]


def _head(model: nn.Module) -> GroupedHead:
    return cast(GroupedHead, model.classifier)
