"""DFT: fine-tuning done decently, the baseline that every method should beat.

What plain fine-tuning lacks is cheap, and none of it is a method of its own: the body learns slowly, objects that the
previous network knows keep its labels, every class is asked by itself, and rare classes count as much as frequent
ones. Revisiting studies of 2025 find that this takes most of the distance between fine-tuning and published methods;
docs/benchmark.md says what it takes here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from barm.batch import Batch, Term
from barm.labels import Step
from barm.losses.balanced import balanced_binary_cross_entropy, class_counts, class_weights
from barm.losses.common import pseudo_labels
from barm.losses.segmentation import segmentation
from barm.methods.base import MethodConfig
from barm.methods.finetune import FineTune
from barm.models.heads import PlainOutput
from barm.models.segmenter import NetworkConfig
from barm.ops.upsampled import map_pixels, sum_pixels


class DFTConfig(MethodConfig):
    """Decent fine-tuning: pseudo-labels of the previous network, a slow body, and classes that count alike.

    Attributes:
        pseudo_threshold: least probability with which the previous network's class replaces the label background; 1
            leaves all labels as they are.
        balance: exponent of the ratio of other pixels to a class's own, by which these are weighted; 0 weights nothing.
        most_weight: the largest of these weights.
    """

    terms: ClassVar[Mapping[str, str]] = {
        "bce": "Binary cross-entropy of every class against the labels (step 0).",
        "balanced_bce": "The same, where confident old pixels have the previous network's class, and the pixels of a "
        "rare class weigh more.",
    }
    warms: ClassVar[bool] = True
    balances: ClassVar[bool] = True

    name: Literal["dft"] = "dft"
    loss: Literal["bce"] = "bce"
    pseudo_threshold: float = Field(0.7, ge=0, le=1)
    balance: float = Field(0.5, ge=0, le=1)
    most_weight: float = Field(10.0, ge=1, le=1000)

    @property
    def base_training(self) -> dict[str, Any]:
        """The segmentation loss of the labels."""
        return self.labelled_training

    def build(self, step: Step, network: NetworkConfig) -> DFT:
        """DFT at one step."""
        return DFT(self, step, network)


class DFT(FineTune[DFTConfig]):
    """DFT at one step."""

    uses_teacher = True
    calibrates = True

    def __init__(self, config: DFTConfig, step: Step, network: NetworkConfig) -> None:
        super().__init__(config, step, network)
        self._weights = torch.ones(step.num_seen)

    def observe(self, old: PlainOutput, batch: Batch) -> Tensor:
        """Count the pixels of every class in the completed labels, ``(C,)`` int64."""
        return class_counts(self._completed(old, batch), self.step.num_seen)

    def calibrate(self, counts: Tensor) -> None:
        """Weigh the classes by what the step's images show of them."""
        self._weights = class_weights(counts, self.config.balance, self.config.most_weight)

    def state_dict(self) -> dict[str, Tensor]:
        """The weights of the classes."""
        return {"weights": self._weights}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore them."""
        self._weights = state["weights"].clone()

    def loss(self, new: PlainOutput, old: PlainOutput | None, batch: Batch) -> dict[str, Term]:
        """The weighted binary cross-entropy against the labels that the previous network completes."""
        if old is None:
            return {"bce": segmentation("bce", new.logits, batch.label, positive=self.class_weights(new.logits))}
        self._weights = self._weights.to(new.logits.device)
        label = self._completed(old, batch)
        return {"balanced_bce": sum_pixels(balanced_binary_cross_entropy, new.logits, label, positive=self._weights)}

    def _completed(self, old: PlainOutput, batch: Batch) -> Tensor:
        """The labels, in which confident old pixels have the previous network's class."""
        threshold = self.config.pseudo_threshold
        label: Tensor = map_pixels(pseudo_labels, old.logits, batch.label, threshold=threshold, softmax=False)
        return label
