"""A network of another library as ours: its last convolution makes way for a classifier that grows."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from barm.errors import UserError
from barm.models.checkpointing import Outward
from barm.models.families import build
from barm.models.families.logits import logits_of
from barm.models.heads import GroupedHead
from barm.models.inputs import InputRule, Normalise
from barm.models.neck import Neck
from barm.models.regression import RegressionHead
from barm.models.undilated import SizeRule

NEVER = -30.0  # logit of a background that the network does not have


class AdoptedConfig(BaseModel):
    """A network of another library.

    Attributes:
        family: the library.
        architecture: what the library needs to know to build the network, as JSON.
        classifier: path of the last convolution in it.
        width: channels of that convolution's input.
        kernel: side of its window in pixels.
        outputs: for every class of the network, background first, its row in that convolution; -1 for a background
            that has none.
        background: `row` is one of the outputs; `threshold` is what no class's probability exceeds one half for;
            `none` is a class that the network never predicts.
        tail: the network does something to its logits that is not the bilinear enlargement to the image's size.
        divisor: by which the sides of an image must be divisible; images are resized to the nearest such size.
        least: side of the smallest image in pixels; smaller ones are enlarged.
        handed: channels that the rest of the network is given where nothing of what it returns is used.
        origin: the repository on a hub that it came from; empty for a file.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    family: Literal["smp", "transformers", "torchvision", "python"]
    architecture: str = "{}"
    classifier: str
    width: int = Field(ge=1, strict=True)
    kernel: int = Field(1, ge=1, strict=True)
    outputs: tuple[int, ...] = Field(min_length=2)
    background: Literal["row", "threshold", "none"] = "row"
    tail: bool = False
    divisor: int = Field(1, ge=1, strict=True)
    least: int = Field(1, ge=1, strict=True)
    handed: int = Field(1, ge=1, strict=True)
    origin: str = ""

    @property
    def description(self) -> dict[str, Any]:
        """What `architecture` says."""
        value: dict[str, Any] = json.loads(self.architecture)
        return value


class PassedNeck(Neck):
    """The features as they are: the network brings its own decoder.

    Args:
        config: of the network.
    """

    refine = False

    def __init__(self, config: AdoptedConfig) -> None:
        super().__init__()
        self.width, self.kernel = config.width, config.kernel

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Return the last feature map."""
        return features[-1]


class Tap(Outward):
    """What stands in the place of the network's last convolution: it calls our classifier.

    Args:
        classifier: of the network around it, which owns it.
        handed: number of channels to hand on, with one channel's values; None for the logits, since the network's
            result is used.
    """

    def __init__(self, classifier: nn.Module, handed: int | None) -> None:
        super().__init__()
        self.classifier = (classifier,)  # in a tuple, since it is not a part of this module
        self.handed = handed
        self.made: Any = None

    def forward(self, features: Tensor) -> Tensor:
        """Classify ``(N, D, h, w)``; keep the classifier's output until `take`, and return logits."""
        self.made = self.classifier[0]([features])
        logits: Tensor = self.made.logits
        return logits if self.handed is None else logits[:, :1].expand(-1, self.handed, -1, -1)

    def take(self) -> Any:
        """Return the classifier's output for the last call, once."""
        made, self.made = self.made, None
        if made is None:
            raise RuntimeError("nothing to take: the network has not called its classifier")
        return made


class AdoptedSegmenter(nn.Module):
    """A network of another library, whose classifier grows.

    Its tensors have their own names below ``backbone.``; those of its last convolution are the classifier's.

    Args:
        config: of the network.
        head: builds the classifier from the neck, the width of its branches and the group sizes.
        group_sizes: classes per step without background.
        rule: by which images are normalised.
    """

    def __init__(
        self,
        config: AdoptedConfig,
        head: Callable[[Neck, int, Sequence[int]], nn.Module],
        group_sizes: Sequence[int],
        rule: InputRule,
    ) -> None:
        super().__init__()
        self.normalise = Normalise(rule)
        self.sizes = size_rule(config.divisor, config.least)
        self.backbone = build(config.family, config.description)
        self.classifier = head(PassedNeck(config), config.width, group_sizes)
        # these heads predict from probabilities at the features' resolution
        self.tail = config.tail and not isinstance(self.classifier, GroupedHead | RegressionHead)
        tap = Tap(self.classifier, None if self.tail else config.handed)
        replace(self.backbone, config.classifier, tap)
        self._tap = (tap,)

    def forward(self, image: Tensor) -> Any:
        """Apply the network: RGB ``(N, 3, H, W)``, uint8 or normalised -> the classifier's output."""
        image = self.normalise(image)
        result = self.backbone(image if self.sizes is None else self.sizes.fit(image))
        made = self._take()
        return made._replace(logits=logits_of(result)) if self.tail else made

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # torch 2.11 cannot compile what a module hands out aside
    def _take(self) -> Any:
        return self._tap[0].take()


def replace(network: nn.Module, path: str, module: nn.Module) -> nn.Module:
    """Put a module into the place that a path names, and return the one that was there.

    Raises:
        UserError: if there is none.
    """
    parent, _, name = path.rpartition(".")
    try:
        place = network.get_submodule(parent)
        before = place.get_submodule(name)
    except AttributeError:
        raise UserError(f"the network has no module '{path}': give the path of its last convolution") from None
    setattr(place, name, module)
    return before


def size_rule(divisor: int, least: int = 1) -> SizeRule | None:
    """Sizes of images that a network takes; None for one that takes all."""
    return None if divisor == least == 1 else SizeRule(divisor, -(-least // divisor) * divisor)


@torch.no_grad()
def watched(module: nn.Module, path: str, image: Tensor) -> tuple[Tensor, Tensor]:
    """What the last convolution gives for an image, and the logits that the network makes of it."""
    seen: list[Tensor] = []
    hook = module.get_submodule(path).register_forward_hook(lambda _m, _i, out: seen.append(out))
    try:
        logits = logits_of(module(image))
    finally:
        hook.remove()
    if len(seen) != 1:
        raise UserError(f"the network uses '{path}' {len(seen)} times for an image: expected once")
    return seen[0], logits
