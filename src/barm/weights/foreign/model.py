"""What was found in a file of another library."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from barm.errors import UserError
from barm.models.families import build
from barm.models.inputs import InputRule
from barm.weights.output_classes import Activation

LARGER, SPARE = 4, 256 << 20  # times the files, which may hold numbers of two bytes, and bytes more
WIDEST = 1 << 30  # of any convolution


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


def _bytes(family: str, architecture: Mapping[str, Any]) -> int:
    """Bytes of a network's tensors, for which no memory is taken.

    Where it cannot be built so, those of a convolution that is as wide as the largest number of its description.
    """
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            bare = build(family, architecture)
    except UserError:  # sizes that overflow, or a constructor that reads a value
        return 4 * min(max(_numbers(architecture), default=0), WIDEST) ** 2
    return sum(tensor.numel() * tensor.element_size() for tensor in bare.state_dict().values())


def _numbers(value: Any) -> Iterator[int]:
    """All whole numbers of a description."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for each in value:
            yield from _numbers(each)
    if isinstance(value, int):
        yield value


def built(family: str, architecture: Mapping[str, Any], file: Path) -> nn.Module:
    """Build a network from a library's description.

    Raises:
        UserError: as `barm.models.families.build`, with the name of the description's file; and for a network that is
            much larger than all files beside it, before memory is taken for it.
    """
    try:
        needed = _bytes(family, architecture)
        beside = sum(each.stat().st_size for each in file.parent.iterdir() if each.is_file())
        if needed > LARGER * beside + SPARE:
            what = f"describes a network of {needed / 2**20:.0f} MiB, but the files beside it have {beside / 2**20:.0f}"
            raise UserError(f"{what}: save the folder anew with save_pretrained")
        return build(family, architecture)
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
