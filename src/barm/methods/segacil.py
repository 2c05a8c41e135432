"""SegACIL: closed-form class-incremental segmentation (Li et al., arXiv 2412.10834).

Step 0 trains by gradients. Then the network is frozen and its classifier replaced by a ridge regression on randomly
expanded features, from sums over all cells seen so far. A later step adds its images' cells to the sums in one pass and
solves again, so that after any number of steps the weights are those of one regression on all their images. Source:
spec/segacil.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal, Self, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from barm.batch import Batch, Term
from barm.errors import UserError
from barm.labels import SEQUENTIAL, Step
from barm.losses.ridge import (
    Place,
    add_rows,
    add_rows_by_class,
    balanced_weight,
    believed,
    expand,
    labels_on_grid,
    ridge_weight,
    widened,
)
from barm.losses.segmentation import segmentation
from barm.methods.base import SEGMENTATION, Factor, Method, MethodConfig
from barm.methods.groups import ParamGroup, Rates, group
from barm.models.heads import PlainOutput
from barm.models.regression import RegressionHead
from barm.models.segmenter import NetworkConfig, build_network, hand_over
from barm.ops.upsampled import map_pixels
from barm.words import count

AUTO, CROSS, COUNTS = "auto", "cross", "counts"  # sums, and names of what is handed on
LEAST, MOST = 1024, 8192  # widths that the number of images decides
ROWS = 4096  # cells that are expanded at once
Width = Annotated[int, Field(ge=16, le=65536, strict=True)]


class SegACILConfig(MethodConfig):
    """SegACIL (2024): later steps train nothing; a ridge regression on frozen features is solved in closed form.

    Attributes:
        width: E, of the random expansion; `auto` chooses 1024 to 8192 by the number of training images, 1024 if
            `balanced`. The sums that go from step to step take ``8 E^2`` bytes.
        gamma: strength of the ridge.
        pseudo: label confident old pixels with the previous step's class.
        pseudo_threshold: on the sigmoid of a score, which is itself between 0 and 1: 0.7 asks for a score of 0.847, 0.9
            for 2.197, which practically none has. Where another method's network is extended, on that one's
            probability.
        balanced: let every class count alike, however many cells it has. The sums then take ``8 C E^2`` bytes.
        cell_label: a cell has the label of its upper left `corner`, as published, or of its `centre`.
        sequential: the labels of old classes are there too (the sequential setting, with `task.setting=disjoint`).
        old_ears: branches beside the first of the network that is extended; `barm extend` sets it.
    """

    terms: ClassVar[Mapping[str, str]] = SEGMENTATION
    extends_any: ClassVar[bool] = True
    probable: ClassVar[bool] = False

    name: Literal["segacil"] = "segacil"
    loss: Literal["bce"] = "bce"
    width: Literal["auto"] | Width = MOST
    gamma: Factor = 1.0
    pseudo: bool = False
    pseudo_threshold: float = Field(0.7, ge=0, le=1)
    balanced: bool = False
    cell_label: Place = "corner"
    sequential: bool = False
    old_ears: int = Field(0, ge=0, le=254, strict=True)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.memory is not None:
            raise ValueError("segacil trains on no image twice: leave method.memory out")
        if self.fusion is not None:
            raise ValueError("segacil solves for its weights and trains none after step 0: leave method.fusion out")
        if self.pseudo and self.sequential:
            raise ValueError("old classes are labelled in the sequential setting: leave method.pseudo out")
        return self

    @property
    def base_training(self) -> dict[str, Any]:
        """The segmentation loss, then the regression; labels of later steps do not matter."""
        return self.model_dump(mode="json", exclude={"pseudo", "pseudo_threshold", "sequential", "old_ears"})

    def settled(self, images: int) -> tuple[Self, dict[str, str]]:
        """Choose the width: twice the number of images, as a power of two from 1024 to 8192; 1024 if `balanced`."""
        if self.width != "auto":
            return self, {}
        width = min(max(LEAST, 1 << (2 * images - 1).bit_length()), LEAST if self.balanced else MOST)
        share = " per class" if self.balanced else ""
        why = f"{width}: for {count(images, 'training images')}; the sums take {8e-6 * width**2:.0f} MB{share}"
        return self.model_copy(update={"width": width}), {"method.width": why}

    def going_on(self, before: MethodConfig, index: int) -> Self:
        """Keep the sums' settings of a run of this method, and the branches of any other."""
        if not isinstance(before, SegACILConfig):
            return self.model_copy(update={"old_ears": before.ears(index)})
        if self.width not in ("auto", before.width):
            raise UserError(f"method.width is {self.width}, the run's sums have {before.width}: leave it out")
        kept = {"width": before.width, "balanced": before.balanced, "old_ears": before.old_ears}
        return self.model_copy(update=kept)

    def ears(self, index: int) -> int:
        """Those of the network that was extended."""
        return self.old_ears

    def build(self, step: Step, network: NetworkConfig) -> SegACIL:
        """SegACIL at one step."""
        return SegACIL(self, step, network)


class SegACIL(Method[PlainOutput, SegACILConfig]):
    """SegACIL at one step."""

    gathers = True
    carries = True

    def __init__(self, config: SegACILConfig, step: Step, network: NetworkConfig) -> None:
        super().__init__(config, step, network)
        if config.sequential:
            self.policy = SEQUENTIAL
        self._sums: dict[str, Tensor] = {}  # of the steps before, then of this one too; on the CPU
        self._foreign = False
        self._projection = torch.empty(0)

    @property
    def trains(self) -> bool:
        """At step 0 alone."""
        return self.step.index == 0

    @property
    def width(self) -> int:
        """E; the least where the data have not decided yet."""
        return LEAST if self.config.width == "auto" else self.config.width

    def build_model(self) -> nn.Module:
        """Backbone, ASPP, branches and the regression; at step 0 the classifier that trains, as torch draws it."""

        def head(*given: Any) -> RegressionHead:
            return RegressionHead(*given, width=self.width, ears=self.config.old_ears)

        model = build_network(self.network, head, self.step.group_sizes, pretrained=self.trains)
        for layer in _head(model).head:
            cast(nn.Conv2d, layer).reset_parameters()
        return model

    def init_from(self, model: nn.Module, previous: nn.Module) -> None:
        """Copy all but the classifiers. New classes score 0; of another method's network so do the old ones."""
        known = previous.classifier.regression if isinstance(previous.classifier, RegressionHead) else None
        new = ["classifier.regression.weight"] if known is not None else ["classifier.regression."]
        hand_over(model, previous, new=new, dropped=["classifier.head.", "classifier.aux.", *new])
        if known is not None:
            _head(model).regression.weight[: self.step.num_old] = known.weight

    def loss(self, new: PlainOutput, old: PlainOutput | None, batch: Batch) -> dict[str, Term]:
        """The segmentation loss of step 0."""
        return {self.config.loss: segmentation(self.config.loss, new.logits, batch.label)}

    def param_groups(self, model: nn.Module, rates: Rates) -> list[ParamGroup]:
        """Parameter groups of step 0; later nothing trains."""
        if not self.trains:
            return []
        head, take = _head(model), self.trainable
        return [
            group("head", take(head.head_pre, *head.head), rates.new),
            group("aspp", take(head.aspp), rates.aspp),
            group("backbone", take(cast(nn.Module, model.backbone)), rates.backbone),
        ]

    def take_over(self, state: Mapping[str, Tensor]) -> None:
        """Receive the sums so far. Without any, the previous network is another method's and labels the old classes.

        Raises:
            UserError: if they are of another width or number of classes, or not per class where that is needed.
        """
        self._foreign = not state
        if self._foreign:
            return
        old = {name: tensor.shape for name, tensor in self._zeros(torch.device("meta"), self.step.num_old).items()}
        found = {name: tensor.shape for name, tensor in state.items()}
        if found != old:
            raise UserError(
                f"the sums of the previous step are {_shapes(found)}, expected {_shapes(old)}: go on with the "
                "method.width and method.balanced of that step"
            )
        cross = widened(state[CROSS], self.step.num_seen)
        self._sums = {**state, CROSS: cross}
        for name in (AUTO, COUNTS) if self.config.balanced else ():
            grown = state[name].new_zeros(self.step.num_seen, *state[name].shape[1:])
            grown[: self.step.num_old] = state[name]
            self._sums[name] = grown

    @property
    def asks_previous(self) -> float | None:
        """The threshold, where another method's network has to label the old classes."""
        return self.config.pseudo_threshold if self._foreign else None

    def _zeros(self, device: torch.device, channels: int) -> dict[str, Tensor]:
        by_class, width = (channels,) if self.config.balanced else (), self.width
        sums = {
            AUTO: torch.zeros(*by_class, width, width, dtype=torch.float64, device=device),
            CROSS: torch.zeros(width, channels, dtype=torch.float64, device=device),
        }
        counts = {COUNTS: torch.zeros(channels, dtype=torch.int64, device=device)} if self.config.balanced else {}
        return {**sums, **counts}

    @property
    def finishes(self) -> bool:
        """At every step."""
        return True

    def finish(self, model: nn.Module, previous: nn.Module | None) -> None:
        """Take the network's projection, in float64, for `gather`. The network is not changed."""
        self._projection = _head(model).regression.projection.double()

    def start_sums(self, device: torch.device) -> dict[str, Tensor]:
        """A and B of this step's images; per class, with their counts, if `balanced`."""
        return self._zeros(device, self.step.num_seen)

    def gather(self, out: PlainOutput, batch: Batch, sums: dict[str, Tensor]) -> None:
        """Add a batch's cells to A and B, in float64 (section 5)."""
        height, width = out.branch.shape[2:]
        label = labels_on_grid(self.labels(out, batch), (height, width), self.config.cell_label)
        for expanded, own in self._rows(out.branch, label):
            if self.config.balanced:
                add_rows_by_class(sums[AUTO], sums[CROSS], sums[COUNTS], expanded, own)
            else:
                add_rows(sums[AUTO], sums[CROSS], expanded, own)

    def labels(self, out: PlainOutput, batch: Batch) -> Tensor:
        """Labels of a batch, ``(N, H, W)``; with `pseudo`, where the previous step is sure, its classes.

        `out` is the output of the network that gathers, whose first channels are the previous step's scores.
        """
        if not self.config.pseudo or self.step.index == 0 or self._foreign:
            return batch.label
        probability = torch.sigmoid(out.logits[:, : self.step.num_old])
        found: Tensor = map_pixels(believed, probability, batch.label, threshold=self.config.pseudo_threshold)
        return found

    def _rows(self, features: Tensor, label: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Expanded cells and their labels, some images at a time."""
        number = max(1, ROWS // (features.shape[2] * features.shape[3]))
        for some, own in zip(torch.split(features, number), torch.split(label, number), strict=True):
            yield expand(some, self._projection), own

    @torch.no_grad()
    def gathered(self, model: nn.Module, sums: Mapping[str, Tensor]) -> None:
        """Add the sums of the steps before, and solve for the weights of all classes."""
        before = {name: value.to(sums[name].device) for name, value in self._sums.items()}
        total = {name: value + before[name] if before else value for name, value in sums.items()}
        if self.config.balanced:
            weight = balanced_weight(total[AUTO], total[CROSS], total[COUNTS], self.config.gamma)
        else:
            weight = ridge_weight(total[AUTO], total[CROSS], self.config.gamma)
        _head(model).regression.weight.copy_(weight.T[:, :, None, None])
        self._sums = {name: value.cpu() for name, value in total.items()}

    def hand_on(self) -> dict[str, Tensor]:
        """A and B of all steps so far."""
        return self._sums


def _head(model: nn.Module) -> RegressionHead:
    return cast(RegressionHead, model.classifier)


def _shapes(found: Mapping[str, torch.Size]) -> str:
    return ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in found.items())
