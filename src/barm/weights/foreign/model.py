"""What was found in a file of another library."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import nn

from barm.errors import UserError
from barm.models.families import build
from barm.models.inputs import InputRule
from barm.weights.output_classes import Activation


@dataclass(frozen=True)
class ForeignModel:
    """A trained network of another library.

    Attributes:
        title: what it is, in words.
        family: the library, a key of `barm.models.families.BUILDERS`.
        module: with its weights, in evaluation mode.
        architecture: from which the library builds it, in values that JSON can hold.
        classifier: path of its last convolution.
        names: of its outputs or classes, if the file says them.
        activation: that turns its logits into probabilities; None if the file does not say.
        rule: by which its images are normalised.
        divisor: by which the sides of its images must be divisible.
        notes: remarks for the user.
    """

    title: str
    family: Literal["smp", "transformers", "torchvision", "python"]
    module: nn.Module
    architecture: Mapping[str, Any]
    classifier: str
    names: tuple[str, ...] | None = None
    activation: Activation | None = None
    rule: InputRule = field(default_factory=InputRule)
    divisor: int = 1
    notes: tuple[str, ...] = ()


def built(family: str, architecture: Mapping[str, Any], file: Path) -> nn.Module:
    """Build a network from a library's description.

    Raises:
        UserError: as `barm.models.families.build`, with the name of the description's file.
    """
    try:
        return build(family, architecture)
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
