"""Lower and upper bound of every table: fine-tuning (nothing against forgetting) and joint training (all labels).

Fine-tuning is also what the methods with one growing classifier are built on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from barm.batch import Batch, Term
from barm.labels import JOINT, Step
from barm.losses.common import best_channel
from barm.losses.segmentation import segmentation
from barm.methods.base import SEGMENTATION, Config, Method, MethodConfig
from barm.methods.groups import ParamGroup, Rates, group
from barm.models.heads import PlainHead, PlainOutput
from barm.models.segmenter import NetworkConfig, build_network, hand_over
from barm.ops.upsampled import map_pixels


class FineTuneConfig(MethodConfig):
    """Fine-tuning: every step trains on its own labels only, in which old objects are background."""

    terms: ClassVar[Mapping[str, str]] = SEGMENTATION
    warms: ClassVar[bool] = True
    balances: ClassVar[bool] = True

    name: Literal["finetune"] = "finetune"

    @property
    def base_training(self) -> dict[str, Any]:
        """The segmentation loss of the labels."""
        return self.labelled_training

    def build(self, step: Step, network: NetworkConfig) -> FineTune[FineTuneConfig]:
        """Fine-tuning at one step."""
        return FineTune(self, step, network)


class JointConfig(MethodConfig):
    """Joint training: every step sees the images and labels of all steps so far."""

    terms: ClassVar[Mapping[str, str]] = SEGMENTATION
    balances: ClassVar[bool] = True

    name: Literal["joint"] = "joint"
    freeze_bn: bool = False

    @property
    def base_training(self) -> dict[str, Any]:
        """The segmentation loss of the labels."""
        return self.labelled_training

    def build(self, step: Step, network: NetworkConfig) -> Joint:
        """Joint training at one step."""
        return Joint(self, step, network)


class FineTune(Method[PlainOutput, Config]):
    """Fine-tuning with one growing classifier. Step 0 is the same training as that of every method on this network."""

    def build_model(self) -> nn.Module:
        """Backbone, ASPP, one branch."""
        return build_network(self.network, PlainHead, self.step.group_sizes, pretrained=self.step.index == 0)

    def init_from(self, model: nn.Module, previous: nn.Module) -> None:
        """Copy tensors of equal names. The new classifier rows stay random."""
        hand_over(model, previous, new=[f"classifier.head.{self.step.index}."])

    def loss(self, new: PlainOutput, old: PlainOutput | None, batch: Batch) -> dict[str, Term]:
        """The segmentation loss against the labels."""
        return {
            self.config.loss: segmentation(
                self.config.loss, new.logits, batch.label, positive=self.class_weights(new.logits)
            )
        }

    def param_groups(self, model: nn.Module, rates: Rates) -> list[ParamGroup]:
        """Parameter groups: the newest classifier at `new`, older classifiers and the branch at `old`."""
        head, take = cast(PlainHead, model.classifier), self.trainable
        rest = rates.old if self.step.index else rates.new
        return [
            group("new_head", take(head.head[-1]), rates.new),
            group("aspp", take(head.aspp), rates.aspp),
            group("old_heads", take(head.head_pre, *head.head[:-1]), rest),
            group("backbone", take(cast(nn.Module, model.backbone)), rates.backbone),
        ]


class SoftmaxConfig(MethodConfig):
    """Settings of MiB and its relatives: softmax over all channels, batch norm always trained (spec/mib.md 7)."""

    loss: Literal["ce"] = "ce"
    freeze_bn: bool = False

    @property
    def base_training(self) -> dict[str, Any]:
        """Cross-entropy, averaged over all pixels, ignored ones too (spec/mib.md section 2, Q3)."""
        return {"objective": "cross-entropy over all pixels"}


class SoftmaxMethod(FineTune[Config]):
    """A growing classifier with softmax over all channels. It predicts the largest upsampled logit (spec/mib.md 10)."""

    def upsampled(self, out: PlainOutput) -> Tensor:
        """The logits, ``(N, C, h, w)``."""
        return out.logits

    def decided(self, values: Tensor) -> Tensor:
        """Softmax of upsampled logits, ``(N, C, H, W)``."""
        return torch.softmax(values, dim=1)

    def predict(self, out: PlainOutput, size: tuple[int, int]) -> Tensor:
        """Predict channels per pixel, ``(N, H, W)`` int64: upsampled logits, then argmax."""
        labels: Tensor = map_pixels(best_channel, out.logits, size=size)
        return labels


class Joint(FineTune[JointConfig]):
    """Joint training: fine-tuning's network with the images and labels of all steps so far."""

    policy = JOINT
