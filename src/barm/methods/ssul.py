"""SSUL: semantic segmentation with unknown label (Cha et al., NeurIPS 2021, arXiv 2106.11562).

Salient objects that nobody labelled are a class of their own, the unknown; new classes start from it. Later steps train
new heads alone. Inside this file a label is 0 for unknown, 1 for background, then the classes. Source: spec/ssul.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from barm.batch import Batch, Term
from barm.data.exemplars import MemoryConfig
from barm.labels import IGNORE, Step
from barm.losses.common import best_channel, probabilities, pseudo_labels
from barm.losses.segmentation import segmentation
from barm.methods.base import SEGMENTATION, Method, MethodConfig
from barm.methods.groups import ParamGroup, Rates, group
from barm.models.heads import UnknownHead, UnknownOutput
from barm.models.segmenter import NetworkConfig, build_network, hand_over
from barm.ops.upsampled import map_pixels

UNKNOWN, BACKGROUND, FIRST = 0, 1, 2  # private labels


class SSULConfig(MethodConfig):
    """SSUL (NeurIPS 2021): unlabelled salient objects are a class of their own, and only new heads train.

    Attributes:
        pseudo: label confident old pixels with the previous model's class.
        pseudo_threshold: on the previous model's probability; 1 accepts none.
        weight_transfer: initialise a new head from the unknown's.
        shift_memory: give exemplars labels with the unknown like all other images, which the released code does not
            (spec/ssul.md Q1).
    """

    maps: ClassVar[frozenset[str]] = frozenset({"saliency"})
    balances: ClassVar[bool] = True
    terms: ClassVar[Mapping[str, str]] = {
        name: f"{told.removesuffix('.')}, among which salient unlabelled objects are a class of their own."
        for name, told in SEGMENTATION.items()
    }

    name: Literal["ssul"] = "ssul"
    pseudo: bool = True
    pseudo_threshold: float = Field(0.7, ge=0, le=1)
    weight_transfer: bool = True
    shift_memory: bool = True

    @property
    def base_training(self) -> dict[str, Any]:
        """The segmentation loss of the labels with the unknown."""
        return {"objective": "segmentation with the unknown", "loss": self.loss}

    def build(self, step: Step, network: NetworkConfig) -> SSUL:
        """SSUL at one step."""
        return SSUL(self, step, network)


class SSULMConfig(SSULConfig):
    """SSUL-M: SSUL with an exemplar memory; exemplars are half of every batch, fully labelled."""

    name: Literal["ssul-m"] = "ssul-m"  # type: ignore[assignment]
    memory: MemoryConfig | None = MemoryConfig(size=100, unique=False)


class SSUL(Method[UnknownOutput, SSULConfig]):
    """SSUL at one step."""

    uses_teacher = True

    def build_model(self) -> nn.Module:
        """Backbone, ASPP, and one head for the unknown, for background and for every step."""
        std = 0.001 if self.network.decoder == "v3plus" else None  # spec/deeplab.md section 3
        return build_network(
            self.network, UnknownHead, self.step.group_sizes, pretrained=self.step.index == 0, init_std=std
        )

    def init_from(self, model: nn.Module, previous: nn.Module) -> None:
        """Copy tensors of equal names. Every class of the new head starts as the unknown's (section 8)."""
        hand_over(model, previous, new=[f"classifier.head.{FIRST + self.step.index}."])
        if self.config.weight_transfer:
            heads = cast(UnknownHead, model.classifier).head
            transfer(cast(nn.Sequential, heads[UNKNOWN]), cast(nn.Sequential, heads[-1]))

    def loss(self, new: UnknownOutput, old: UnknownOutput | None, batch: Batch) -> dict[str, Term]:
        """The segmentation loss against labels with unknown and pseudo-labels (sections 5 to 7)."""
        config, label = self.config, self.private_labels(batch)
        if old is not None and config.pseudo:
            label = self._pseudo(old.logits, label, config.pseudo_threshold)
        weights = self.class_weights(new.logits)
        weights = None if weights is None else torch.cat([torch.ones_like(weights[:1]), weights])  # the unknown's first
        return {config.loss: segmentation(config.loss, new.logits, label, positive=weights)}

    def private_labels(self, batch: Batch) -> Tensor:
        """Labels with the unknown class, ``(N, H, W)`` int64. Those of exemplars are as released if configured (Q1)."""
        label = unknown_labels(batch.label, batch.extras.get("saliency"))
        if self.config.shift_memory or "memory" not in batch.extras:
            return label
        return torch.where(batch.extras["memory"].view(-1, 1, 1).bool(), batch.label, label)

    def annotate(self, out: UnknownOutput, batch: Batch, threshold: float) -> Tensor:
        """Labels with this network's pseudo-labels (section 12.1)."""
        label = self._pseudo(out.logits, self.private_labels(batch), threshold)
        return torch.where(label == IGNORE, IGNORE, (label - 1).clamp(min=0))

    def _pseudo(self, logits: Tensor, label: Tensor, threshold: float) -> Tensor:
        softmax = self.config.loss != "bce"
        labels: Tensor = map_pixels(pseudo_labels, logits, label, threshold=threshold, softmax=softmax, first=FIRST)
        return labels

    def scores(self, out: UnknownOutput) -> Tensor:
        """Probabilities with the unknown's added to background's, ``(N, C, h, w)``. For BCE that sum may exceed 1."""
        share = probabilities(out.logits, self.config.loss)
        return torch.cat([share[:, :1] + share[:, 1:2], share[:, 2:]], dim=1)

    def upsampled(self, out: UnknownOutput) -> Tensor:
        """The logits, ``(N, 1 + C, h, w)``."""
        return out.logits

    def decided(self, values: Tensor) -> Tensor:
        """Probabilities of upsampled logits, the unknown's added to background's, ``(N, C, H, W)``."""
        return self.scores(UnknownOutput(values))

    def predict(self, out: UnknownOutput, size: tuple[int, int]) -> Tensor:
        """Predict channels: upsampling, then probabilities, then the unknown is added to background (section 13)."""
        labels: Tensor = map_pixels(lambda logits: best_channel(self.decided(logits)), out.logits, size=size)
        return labels

    def param_groups(self, model: nn.Module, rates: Rates) -> list[ParamGroup]:
        """Parameter groups.

        From step 1 on the newest head and the unknown's train, background's at `old`, and all else is frozen (section
        9).
        """
        classifier, take = cast(UnknownHead, model.classifier), self.trainable
        heads = classifier.head
        if self.step.index:
            return [
                group("new_head", take(heads[-1]), rates.new),
                group("unknown_head", take(heads[UNKNOWN]), rates.new),
                group("background_head", take(heads[BACKGROUND]), rates.old),
            ]
        return [
            group("heads", take(*heads), rates.new),
            group("aspp", take(classifier.aspp), rates.aspp),
            group("backbone", take(cast(nn.Module, model.backbone)), rates.backbone),
        ]


def unknown_labels(label: Tensor, saliency: Tensor | None) -> Tensor:
    """Convert canonical labels to SSUL's own, ``(N, H, W)`` int64: background is unknown where an image is salient.

    Args:
        label: channels, ``(N, H, W)`` int64.
        saliency: ``(N, H, W)``, anything above 0 is salient; without a map every unlabelled pixel is unknown, as
            published for ADE20K (section 5.1).
    """
    shifted = torch.where(label == IGNORE, IGNORE, label + 1)
    salient = torch.ones_like(label, dtype=torch.bool) if saliency is None else saliency > 0
    return torch.where((label == 0) & salient, UNKNOWN, shifted)


def transfer(source: nn.Sequential, target: nn.Sequential) -> None:
    """Initialise a head from the unknown's, in place: its branch is copied, and so is its one row for every class."""
    counter = "num_batches_tracked"
    own, given = target.state_dict(), source.state_dict()
    filled = {name: value if name.endswith(counter) else given[name].expand_as(value) for name, value in own.items()}
    target.load_state_dict(filled)
