"""RCIL: convolutions in two branches, of which one keeps what was learned; pooled cubes are distilled.

Zhang et al., CVPR 2022, arXiv 2203.05402. Source: spec/rcil.md; losses on the logits and head are MiB's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from barm.batch import Batch, Term
from barm.labels import Step
from barm.losses.cube import channel_cube, spatial_cube
from barm.losses.unbiased import unbiased_cross_entropy, unbiased_distillation
from barm.methods.base import Weight
from barm.methods.finetune import SoftmaxConfig
from barm.methods.mib import BackgroundInitialised
from barm.models.heads import PlainHead, PlainOutput
from barm.models.pairs import draw_paths, pairs_of, settled
from barm.models.segmenter import NetworkConfig, build_network
from barm.ops.upsampled import sum_all, sum_pixels


class RCILConfig(SoftmaxConfig):
    """RCIL (CVPR 2022): one of two parallel branches keeps the old classes; pooled features are distilled.

    Attributes:
        distillation_weight: of MiB's distillation.
        cube_weight: of the backbone's features in the pooled cubes, and of ASPP's where they are pooled over windows.
        cube_weight_last: of the last level: the logits pooled over windows, ASPP's features pooled over channels.
        shift_bias: new classes begin with the background's bias and share its probability, as MiB has it; otherwise
            with its weights and a random bias.
    """

    terms: ClassVar[Mapping[str, str]] = {
        "ce": "Cross-entropy against the labels (step 0).",
        "unce": "Unbiased cross-entropy: the label background means background or any old class.",
        "unkd": "Unbiased distillation: the previous network's background may be background or a new class.",
        "spatial": "Pooled cube over windows: windows of features and logits stay those of the previous network.",
        "channel": "Pooled cube over channels: neighbouring features stay those of the previous network.",
    }
    distillation: ClassVar[frozenset[str]] = frozenset({"unkd", "spatial", "channel"})
    warms: ClassVar[bool] = True

    name: Literal["rcil"] = "rcil"
    distillation_weight: Weight = 100.0
    cube_weight: Weight = 0.01
    cube_weight_last: Weight = 0.0005
    shift_bias: bool = False

    @property
    def base_training(self) -> dict[str, Any]:
        """MiB's loss, on a network with two branches (section 1)."""
        return {**super().base_training, "branches": 2}

    def build(self, step: Step, network: NetworkConfig) -> RCIL:
        """RCIL at one step."""
        return RCIL(self, step, network)


class RCIL(BackgroundInitialised[RCILConfig]):
    """RCIL at one step."""

    uses_teacher = True

    def build_model(self) -> nn.Module:
        """Build fine-tuning's network in two branches, which also returns the backbone's stages.

        From step 1 on the old branch is one convolution without norm.
        """
        first = self.step.index == 0
        branches: Literal["trained", "settled"] = "trained" if first else "settled"
        sizes = self.step.group_sizes
        return build_network(self.network, PlainHead, sizes, pretrained=first, levels="after", branches=branches)

    def init_from(self, model: nn.Module, previous: nn.Module) -> None:
        """Let the old branch be what both were, and the new one and the rest go on as they are (sections 4 and 5)."""
        super().init_from(model, settled(previous))

    def _start_biases(self, first: Tensor, new: Tensor) -> None:
        if self.config.shift_bias:
            super()._start_biases(first, new)

    def draw(self, model: nn.Module) -> None:
        """Draw which branch every channel takes."""
        draw_paths(model)

    def trainable(self, *modules: nn.Module) -> list[nn.Parameter]:
        """Parameters of the modules without those of old branches that are settled."""
        kept = {id(p) for m in modules for pair in pairs_of(m) if pair.is_settled for p in pair.old.parameters()}
        return [parameter for parameter in super().trainable(*modules) if id(parameter) not in kept]

    def loss(self, new: PlainOutput, old: PlainOutput | None, batch: Batch) -> dict[str, Term]:
        """Cross-entropy; from step 1 on unbiased, with unbiased distillation and that of pooled cubes (section 1)."""
        if old is None:
            return {"ce": sum_pixels(unbiased_cross_entropy, new.logits, batch.label)}
        config = self.config
        options: dict[str, Any] = {"num_seen": self.step.num_seen, "num_new": len(self.step.new)}
        options |= {"weight": config.cube_weight, "weight_last": config.cube_weight_last}
        features, before = ([*out.levels, out.branch] for out in (new, old))
        return {
            **sum_all(self._objective, new.logits, batch.label, old=[old.logits]),
            "spatial": spatial_cube([*features, new.logits], [*before, old.logits], **options),
            "channel": channel_cube(features, before, **options),
        }

    def _objective(self, logits: Tensor, old: Tensor, label: Tensor) -> dict[str, Term]:
        """MiB's terms at the labels' size."""
        return {
            "unce": unbiased_cross_entropy(logits, label, num_old=self.step.num_old),
            "unkd": unbiased_distillation(logits, old, weight=self.config.distillation_weight),
        }
