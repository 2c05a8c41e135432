"""PLOP: distils pooled features of all levels, and labels background by the old model's confident predictions.

Douillard et al., CVPR 2021, arXiv 2011.11390. Source: spec/plop.md; head and initialisation are MiB's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from barm.batch import Batch, Term
from barm.labels import Step
from barm.losses.entropy import (
    Belief,
    Targets,
    adaptive_cross_entropy,
    belief,
    believed_labels,
    entropy_histogram,
    median_thresholds,
    published_thresholds,
)
from barm.losses.pod import local_pod
from barm.losses.unbiased import unbiased_cross_entropy
from barm.methods.base import Weight
from barm.methods.finetune import SoftmaxConfig
from barm.methods.mib import BackgroundInitialised
from barm.models.heads import PlainHead, PlainOutput
from barm.models.segmenter import NetworkConfig, build_network
from barm.ops.upsampled import map_pixels, sum_pixels

THRESHOLDS = {"published": published_thresholds, "median": median_thresholds}


class PLOPConfig(SoftmaxConfig):
    """PLOP (CVPR 2021): local pooled features are distilled, confident old predictions become labels.

    Attributes:
        pod_weight: of the backbone's and the ASPP's features.
        pod_weight_last: of the logits.
        threshold_floor: lower bound of the thresholds on the entropy.
        thresholds: how they are found: by the `published` search, which misses the median that it is meant to find, or
            as the `median`.
    """

    terms: ClassVar[Mapping[str, str]] = {
        "ce": "Cross-entropy against the labels, where confident old pixels have the previous network's class.",
        "pod": "Local POD: features pooled over strips of the image stay those of the previous network.",
    }
    distillation: ClassVar[frozenset[str]] = frozenset({"pod"})
    warms: ClassVar[bool] = True

    name: Literal["plop"] = "plop"
    pod_weight: Weight = 0.01
    pod_weight_last: Weight = 0.0005
    threshold_floor: float = Field(0.001, ge=0, le=1)
    thresholds: Literal["published", "median"] = "published"

    def build(self, step: Step, network: NetworkConfig) -> PLOP:
        """PLOP at one step."""
        return PLOP(self, step, network)


class PLOP(BackgroundInitialised[PLOPConfig]):
    """PLOP at one step."""

    uses_teacher = True
    calibrates = True

    def __init__(self, config: PLOPConfig, step: Step, network: NetworkConfig) -> None:
        super().__init__(config, step, network)
        self.thresholds = torch.full((step.num_seen,), config.threshold_floor)

    def build_model(self) -> nn.Module:
        """Build fine-tuning's network, which also returns the backbone's stages."""
        sizes = self.step.group_sizes
        return build_network(self.network, PlainHead, sizes, pretrained=self.step.index == 0, levels="before")

    def observe(self, old: PlainOutput, batch: Batch) -> Tensor:
        """Histogram of the previous model's entropies on background, ``(C, 100)`` int64."""
        seen = self._belief(old, batch)
        return entropy_histogram(seen, batch.label, self.step.num_seen)

    def calibrate(self, counts: Tensor) -> None:
        """Compute thresholds per class, or the floor where the published search finds none (P4)."""
        found = THRESHOLDS[self.config.thresholds](counts, self.config.threshold_floor)
        self.thresholds = torch.nan_to_num(found, nan=self.config.threshold_floor, posinf=float("inf"))

    def loss(self, new: PlainOutput, old: PlainOutput | None, batch: Batch) -> dict[str, Term]:
        """Cross-entropy against pseudo-labels, and local POD (sections 3 to 5)."""
        if old is None:
            return {"ce": sum_pixels(unbiased_cross_entropy, new.logits, batch.label)}
        config, step = self.config, self.step
        self.thresholds = self.thresholds.to(new.logits.device)  # a copy once, after a resume
        label, factor = believed_labels(self._belief(old, batch), batch.label, self.thresholds, num_old=step.num_old)
        return {
            "ce": sum_pixels(_weighted, new.logits, label, factor.view(-1, 1, 1).expand(label.shape)),
            "pod": local_pod(
                (*new.levels, new.branch, new.logits),
                (*old.levels, old.branch, old.logits),
                num_seen=step.num_seen,
                num_new=len(step.new),
                weight=config.pod_weight,
                weight_last=config.pod_weight_last,
            ),
        }

    def _belief(self, old: PlainOutput, batch: Batch) -> Belief:
        return Belief(*map_pixels(belief, old.logits, size=batch.size, num_seen=self.step.num_seen))

    def state_dict(self) -> dict[str, Tensor]:
        """The thresholds."""
        return {"thresholds": self.thresholds.cpu()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore `state_dict`."""
        self.thresholds = state["thresholds"]


def _weighted(logits: Tensor, label: Tensor, factor: Tensor) -> Term:
    """`adaptive_cross_entropy` with the images' factors as a map per pixel."""
    return adaptive_cross_entropy(logits, Targets(label, factor[:, 0, 0]))
