"""Exemplar memory: the images of earlier steps that are kept, and how they are mixed into training.

A memory holds names of images, not images: it is a wrapper of a data set, stored with the run. Source: spec/ssul.md
section 12, spec/dkd.md section 8.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch.utils.data import Dataset

from barm.data.dataset import Item, StepDataset
from barm.data.device_transforms import Placed
from barm.data.sampler import Key
from barm.errors import UserError


class MemoryConfig(BaseModel):
    """Size and use of an exemplar memory.

    Attributes:
        size: how many images are kept.
        labels: of kept images in training: all classes `seen` so far, also those nobody had labelled when the image
            was current (spec/ssul.md Q29), or those of the current `step` alone.
        mix: kept images take half of every batch (`replace`), or are added to the step's images (`append`).
        threshold: a pixel that the previous model gives an old class with this probability counts as showing it; with
            1 none does.
        unique: keep no image twice; SSUL-M's code may (spec/ssul.md Q10).
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    size: int = Field(100, ge=1, strict=True)
    labels: Literal["seen", "step"] = "seen"
    mix: Literal["replace", "append"] = "replace"
    threshold: float = Field(0.7, ge=0, le=1)
    unique: bool = True


class Exemplar(NamedTuple):
    """A kept image.

    Attributes:
        name: in the training split.
        channels: classes that it shows, as channels, ascending; without background.
    """

    name: str
    channels: tuple[int, ...]


def to_json(exemplars: Sequence[Exemplar]) -> list[dict[str, Any]]:
    """Convert exemplars to the form of ``memory.json``."""
    return [{"name": e.name, "channels": list(e.channels)} for e in exemplars]


def from_json(records: Sequence[Mapping[str, Any]]) -> list[Exemplar]:
    """Convert from the form of ``memory.json`` to exemplars."""
    return [Exemplar(r["name"], tuple(r["channels"])) for r in records]


class MemoryDataset(Dataset[Item | Placed]):
    """A step's images followed by exemplars; ``extras["memory"]`` marks the exemplars.

    Args:
        current: the step's images.
        exemplars: the kept ones.
        config: labels and mixing of the exemplars.
        lut: dataset id -> channel for kept images, where it is another than the step's.

    Raises:
        UserError: for an image that the split no longer has.
    """

    def __init__(
        self, current: StepDataset, exemplars: Sequence[Exemplar], config: MemoryConfig, lut: np.ndarray[Any, Any]
    ) -> None:
        names = sorted({*(e.name for e in exemplars)}) if config.unique else sorted(e.name for e in exemplars)
        places = {current.source.name(i): i for i in range(len(current.source))} if names else {}
        for name in names:
            if name not in places:
                raise UserError(f"the memory holds '{name}', which the training split lacks: restore the image")
        self.current, self.mix, self.lut = current, config.mix, lut
        self.kept = tuple(places[name] for name in names)
        self.step = current.step

    def __len__(self) -> int:
        """Number of images of an epoch."""
        return len(self.current) + (len(self.kept) if self.mix == "append" else 0)

    @property
    def positions(self) -> int:
        """Number of positions that a key may have: the step's images, then the exemplars."""
        return len(self.current) + len(self.kept)

    def __getitem__(self, key: Key) -> Item | Placed:
        first, current = len(self.current), self.current
        old = key[1] >= first
        index = self.kept[key[1] - first] if old else current.images[key[1]]
        return current.load(index, key, self.lut if old else current.lut, {"memory": torch.tensor(old)})
