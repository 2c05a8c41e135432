"""STAR: prototype replay (Chen et al., NeurIPS 2023).

Every class is a binary problem, and background is the absence of all. After a step, the mean direction, the spread and
the norm of every new class's features are stored. Later steps draw features from these as negatives of their new
classes, as many as their images lack of the old ones. Source: spec/star.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from barm.batch import Batch, Term
from barm.data.exemplars import MemoryConfig
from barm.errors import UserError
from barm.labels import Setting, Step
from barm.losses.decomposed import multiple_binary_cross_entropy
from barm.losses.prototypes import (
    Plan,
    Statistics,
    cell_counts,
    counts_after,
    drawn_features,
    feature_sums,
    label_cells,
    order_of_drawing,
    replay_plan,
    statistics,
    teacher_counts,
    teacher_labels,
)
from barm.losses.star import maintained_features, replayed_cross_entropy, similarity_to_prototypes
from barm.methods.base import Factor, MethodConfig, Weight
from barm.methods.binary import BinaryMethod
from barm.methods.groups import ParamGroup, Rates, group
from barm.models.heads import BinaryHead, BinaryOutput
from barm.models.segmenter import NetworkConfig, build_network, hand_over
from barm.ops.upsampled import map_pixels, sum_pixels


class STARConfig(MethodConfig):
    """STAR (NeurIPS 2023): draws features of old classes from stored statistics, as negatives of the new classes.

    Attributes:
        loss: of the labelled pixels; `bce` alone.
        features_weight: of old features maintained.
        similarity_weight: of the nearness of new classes to old prototypes.
        pos_weight: factor on positive pixels.
        own_reference: measure the spread of a class around its own prototype. The released code takes another class's
            from step 1 on, so that these classes are replayed with more noise (spec/star.md Q1).
    """

    terms: ClassVar[Mapping[str, str]] = {
        "mbce": "Binary cross-entropy of each new class against labels, drawn old features and repeated background.",
        "ocfm": "Old features maintained: where the previous network sees an old class, features stay its.",
        "sad": "Reciprocal distance of each new class's mean feature to the nearest old prototype.",
    }

    name: Literal["star"] = "star"
    loss: Literal["bce"] = "bce"
    features_weight: Weight = 5.0
    similarity_weight: Weight = 0.05
    pos_weight: Factor = 4.0
    own_reference: bool = False

    @property
    def base_training(self) -> dict[str, Any]:
        """Binary cross-entropy per class, with the weight of positive pixels."""
        return {"objective": "binary problems with statistics", "pos_weight": self.pos_weight}

    def build(self, step: Step, network: NetworkConfig) -> STAR:
        """STAR at one step."""
        return STAR(self, step, network)


class STARMConfig(STARConfig):
    """STAR-M: STAR with an exemplar memory, whose images are added to the step's and labelled like them."""

    name: Literal["star-m"] = "star-m"  # type: ignore[assignment]
    memory: MemoryConfig | None = MemoryConfig(size=50, labels="step", mix="append", threshold=0.9)


class STAR(BinaryMethod[BinaryOutput, STARConfig]):
    """STAR at one step."""

    uses_teacher = True
    calibrates = True
    gathers = True
    carries = True

    def __init__(self, config: STARConfig, step: Step, network: NetworkConfig) -> None:
        super().__init__(config, step, network)
        self.width = network.channels if network.adopted is None else network.adopted.width
        self.overlap, self.rank, self.world, self.per_epoch = True, 0, 1, 1
        self.old = Statistics.empty(step.num_old - 1, self.width)
        self.before = torch.zeros(step.num_old, dtype=torch.float64)
        self.seen = torch.zeros(step.num_old, dtype=torch.int64)
        self.handed: dict[str, Tensor] = {}
        self._plan()

    def build_model(self) -> nn.Module:
        """Backbone, ASPP with one more convolution, one classifier per step."""
        return build_network(self.network, BinaryHead, self.step.group_sizes, pretrained=self.step.index == 0)

    def init_from(self, model: nn.Module, previous: nn.Module) -> None:
        """Copy tensors of equal names. The new classifier stays random (section 2)."""
        hand_over(model, previous, new=[f"classifier.head.{self.step.index}."])

    def set_conditions(self, setting: Setting, rank: int, world: int) -> None:
        """Learn whether images can be those of an earlier step, and this process's part of the drawing."""
        self.overlap, self.rank, self.world = setting == "overlap", rank, world

    def set_length(self, per_epoch: int, total: int) -> None:
        """Learn over how many updates an epoch's drawing is spread."""
        self.per_epoch = per_epoch

    def observe(self, old: BinaryOutput, batch: Batch) -> Tensor:
        """Count what the previous network sees in the step's background (section 4.1), ``(K,)`` int64."""
        size = (old.logits.shape[2], old.logits.shape[3])
        taught = map_pixels(teacher_labels, old.logits, size=batch.size)
        return teacher_counts(label_cells(taught, size), label_cells(batch.label, size), self.step.num_old)

    def calibrate(self, counts: Tensor) -> None:
        """Plan the replay (section 4.2)."""
        self.seen = counts.cpu()
        self._plan()

    def _plan(self) -> None:
        """Decide how much is drawn. Classes of which nothing is known are not."""
        plan = replay_plan(
            self.before, self.seen, num_new=len(self.step.new), per_epoch=self.per_epoch, overlap=self.overlap
        )
        features = [n if known else 0 for n, known in zip(plan.features, self.old.known.tolist(), strict=True)]
        self.replay(Plan(tuple(features), plan.repetition))

    def replay(self, plan: Plan) -> None:
        """Replay as planned from now on; of the drawn features this process draws its part."""
        self.repetition = plan.repetition
        self.order = order_of_drawing(plan.features)[self.rank :: self.world]
        self.prototypes = self.old.prototype[self.old.known]

    def loss(self, new: BinaryOutput, old: BinaryOutput | None, batch: Batch) -> dict[str, Term]:
        """The labels' loss; from step 1 on with replay, old features and similarity (section 5)."""
        known, config = self.step.num_old, self.config
        logits = new.logits[:, known - 1 :]
        labelled = sum_pixels(
            multiple_binary_cross_entropy, logits, batch.label, first=known, positive_weight=config.pos_weight
        )
        if old is None:
            return {"mbce": labelled}
        self._move(new.branch.device)
        taught = map_pixels(teacher_labels, old.logits, size=batch.size)
        size = (logits.shape[2], logits.shape[3])
        background = (label_cells(batch.label, size) == 0) & (label_cells(taught, size) == 0)
        drawn = F.linear(self._drawn(), new.weight[known - 1 :], new.bias[known - 1 :])
        kept = maintained_features(new.branch, old.branch, (batch.label == 0) & (taught > 0))
        near = similarity_to_prototypes(
            new.branch, batch.label, self.prototypes, first=known, number=len(self.step.new)
        )
        return {
            "mbce": replayed_cross_entropy(labelled, logits, background, drawn, repetition=self.repetition),
            "ocfm": kept._replace(weight=config.features_weight),
            "sad": near._replace(weight=config.similarity_weight),
        }

    def _drawn(self) -> Tensor:
        """Features for one update, anew every time, ``(R, D)``."""
        shape, device = (len(self.order), self.width), self.order.device
        return drawn_features(
            self.old, self.order, torch.randn(shape, device=device), torch.randn(shape, device=device)
        )

    def _move(self, device: torch.device) -> None:
        """Move what the loss needs to the device, once."""
        if self.order.device != device:
            self.order, self.prototypes = self.order.to(device), self.prototypes.to(device)
            self.old = Statistics(*(part.to(device) for part in self.old))

    def start_sums(self, device: torch.device) -> dict[str, Tensor]:
        """Zeros for every new class, and for the cells of background and of every new class."""
        number = len(self.step.new)
        sums = {
            name: torch.zeros(shape, dtype=torch.float64, device=device)
            for name, shape in {
                "unit": (number, self.width),
                "unit_square": (number, self.width),
                "norm": (number,),
                "norm_square": (number,),
            }.items()
        }
        return {**sums, "cells": torch.zeros(1 + number, dtype=torch.int64, device=device)}

    def gather(self, out: BinaryOutput, batch: Batch, sums: dict[str, Tensor]) -> None:
        """Add a batch to the statistics of the new classes (section 3)."""
        cells = label_cells(batch.label, (out.branch.shape[2], out.branch.shape[3]))
        first, number = self.step.num_old, len(self.step.new)
        found = feature_sums(out.branch, cells, first=first, number=number)
        for name, value in {**found, "cells": cell_counts(cells, first=first, number=number)}.items():
            sums[name] += value

    def gathered(self, model: nn.Module, sums: Mapping[str, Tensor]) -> None:
        """Join the new classes' statistics and counts to those of the old ones (section 4.3)."""
        sums = {name: value.cpu() for name, value in sums.items()}
        old, cells = Statistics(*(part.cpu() for part in self.old)), sums["cells"]
        new = statistics(sums, cells[1:], old.prototype, own_reference=self.config.own_reference)
        every = Statistics(*(torch.cat(pair) for pair in zip(old, new, strict=True)))
        counts = (
            counts_after(self.before, self.seen, cells[1:], overlap=self.overlap) if self.step.index else cells.double()
        )
        self.handed = {**every._asdict(), "counts": counts}

    def hand_on(self) -> dict[str, Tensor]:
        """Statistics of all classes, and counts of their cells with background's."""
        return self.handed

    def take_over(self, state: Mapping[str, Tensor]) -> None:
        """Receive `hand_on` of the previous step.

        Raises:
            UserError: if there are no statistics, or those of other classes or features.
        """
        before, number = self.step.index - 1, self.step.num_old - 1
        if not state:
            raise UserError(
                f"{self.config.name} replays old classes from statistics that it takes after every step, but step "
                f"{before} has none (it was imported, or trained by another method): train that step with "
                f"{self.config.name}, or go on with another method, such as --recipe folder/mib"
            )
        expected = {**Statistics.empty(number, self.width)._asdict(), "counts": self.before}
        shapes = {name: tuple(value.shape) for name, value in expected.items()}
        found = {name: tuple(value.shape) for name, value in state.items()}
        if found != shapes:
            raise UserError(
                f"the statistics of step {before} do not fit: expected {shapes}, found {found}; train that step anew"
            )
        self.old = Statistics(*(state[name].float() for name in Statistics._fields))
        self.before = state["counts"].double()
        self._plan()

    def state_dict(self) -> dict[str, Tensor]:
        """What the previous network saw in the step's background; nothing at step 0."""
        return {"seen": self.seen.cpu()} if self.step.index else {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore `state_dict`, and plan the replay as then."""
        if self.step.index:
            self.calibrate(state["seen"])

    def param_groups(self, model: nn.Module, rates: Rates) -> list[ParamGroup]:
        """Parameter groups: at step 0 all classifiers at `new`. Old ones get weight decay alone (section 5.5)."""
        head, take, first = cast(BinaryHead, model.classifier), self.trainable, self.step.index == 0
        return [
            group("new_head", take(head.head[-1]), rates.new),
            group("aspp", take(head.aspp, head.head_pre), rates.aspp),
            group("old_heads", take(*head.head[:-1]), rates.new if first else rates.old),
            group("backbone", take(cast(nn.Module, model.backbone)), rates.backbone),
        ]
