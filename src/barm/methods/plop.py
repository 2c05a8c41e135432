"""PLOP: pooled features of all levels are kept, and the background takes the old model's confident predictions.

Douillard et al., CVPR 2021, arXiv 2011.11390. Source: spec/plop.md; head and initialisation are MiB's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from barm.batch import Batch, Term
from barm.labels import Step
from barm.losses.common import upsample
from barm.losses.entropy import (
    adaptive_cross_entropy,
    belief,
    believed_labels,
    entropy_histogram,
    median_thresholds,
    published_thresholds,
)
from barm.losses.pod import local_pod
from barm.losses.unbiased import unbiased_cross_entropy
from barm.methods.finetune import SoftmaxConfig
from barm.methods.mib import BackgroundInitialised
from barm.models.heads import PlainHead, PlainOutput
from barm.models.network import NetworkConfig, Segmenter

THRESHOLDS = {"published": published_thresholds, "median": median_thresholds}


class PLOPConfig(SoftmaxConfig):
    """PLOP (CVPR 2021): local pooled features are kept, confident old predictions become labels.

    Attributes:
        pod_weight: of the backbone's and the ASPP's features.
        pod_weight_last: of the logits.
        threshold_floor: lower bound of the thresholds on the entropy.
        thresholds: by the published search, which is not the median it is meant to be, or by the median.
    """

    name: Literal["plop"] = "plop"
    pod_weight: float = Field(0.01, ge=0)
    pod_weight_last: float = Field(0.0005, ge=0)
    threshold_floor: float = Field(0.001, ge=0)
    thresholds: Literal["published", "median"] = "published"

    def build(self, step: Step, network: NetworkConfig) -> PLOP:
        """PLOP at one step."""
        return PLOP(self, step, network)


class PLOP(BackgroundInitialised):
    """PLOP at one step."""

    uses_teacher = True
    calibrates = True

    def __init__(self, config: PLOPConfig, step: Step, network: NetworkConfig) -> None:
        super().__init__(config, step, network)
        self.config = config
        self.thresholds = torch.full((step.num_seen,), config.threshold_floor)

    def build_model(self) -> Segmenter:
        """Fine-tuning's network, which also hands out the backbone's stages."""
        sizes = self.step.group_sizes
        return Segmenter(self.network, PlainHead, sizes, pretrained=self.step.index == 0, levels=True)

    def observe(self, old: PlainOutput, batch: Batch) -> Tensor:
        """Histogram of the previous model's entropies on background, ``(C, 100)`` int64."""
        seen = belief(upsample(old.logits, _size(batch)), self.step.num_seen)
        return entropy_histogram(seen, batch.label, self.step.num_seen)

    def calibrate(self, counts: Tensor) -> None:
        """Thresholds per class; where the published search finds no number, the floor (P4)."""
        found = THRESHOLDS[self.config.thresholds](counts, self.config.threshold_floor)
        self.thresholds = torch.nan_to_num(found, nan=self.config.threshold_floor, posinf=float("inf"))

    def loss(self, new: PlainOutput, old: PlainOutput | None, batch: Batch) -> dict[str, Term]:
        """Cross-entropy against believed labels, and local POD (sections 3 to 5)."""
        logits = upsample(new.logits, _size(batch))
        if old is None:
            return {"ce": unbiased_cross_entropy(logits, batch.label)}
        config, step = self.config, self.step
        seen = belief(upsample(old.logits, _size(batch)), step.num_seen)
        targets = believed_labels(seen, batch.label, self.thresholds.to(logits.device), num_old=step.num_old)
        return {
            "ce": adaptive_cross_entropy(logits, targets),
            "pod": local_pod(
                (*new.levels, new.branch, new.logits),
                (*old.levels, old.branch, old.logits),
                num_seen=step.num_seen,
                num_new=len(step.new),
                weight=config.pod_weight,
                weight_last=config.pod_weight_last,
            ),
        }

    def state_dict(self) -> dict[str, Tensor]:
        """The thresholds."""
        return {"thresholds": self.thresholds.cpu()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore `state_dict`."""
        self.thresholds = state["thresholds"]


def _size(batch: Batch) -> tuple[int, int]:
    return batch.label.shape[1], batch.label.shape[2]
