"""Exemplar memory: which old pictures are kept, and how they come back into training.

A memory holds names of pictures, not pictures: it is a wrapper of a data set, stored with the run. Source: spec/ssul.md
section 12, spec/dkd.md section 8.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from barm.data.dataset import EpochSampler, Item, Key, StepDataset, numbered
from barm.data.device_transforms import Placed
from barm.errors import UserError
from barm.labels import IGNORE


class MemoryConfig(BaseModel):
    """How many old pictures a method may keep, and how it uses them.

    Attributes:
        size: how many pictures are kept.
        labels: of kept pictures in training: all classes `seen` so far, also those nobody had labelled when the picture
            was current (spec/ssul.md Q29), or those of the current `step` alone.
        mix: kept pictures take half of every batch (`replace`), or are added to the step's pictures (`append`).
        threshold: a pixel that the previous model gives an old class with this probability counts as showing it; with
            1 none does.
        unique: keep no picture twice; SSUL-M's code may (spec/ssul.md Q10).
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    size: int = Field(100, ge=1, strict=True)
    labels: Literal["seen", "step"] = "seen"
    mix: Literal["replace", "append"] = "replace"
    threshold: float = Field(0.7, ge=0, le=1)
    unique: bool = True


class Exemplar(NamedTuple):
    """A kept picture.

    Attributes:
        name: in the training split.
        channels: classes that it shows, as channels, ascending; without background.
    """

    name: str
    channels: tuple[int, ...]


def channels_in(label: Tensor) -> tuple[int, ...]:
    """The classes in a label map of any shape, ascending; neither background nor 255.

    >>> channels_in(torch.tensor([0, 2, 2, 255, 1]))
    (1, 2)
    """
    return tuple(c for c in torch.unique(label).tolist() if c not in (0, IGNORE))


def draw_exemplars(
    candidates: Sequence[Exemplar], num_channels: int, config: MemoryConfig, seed: int
) -> list[Exemplar]:
    """Choose the memory: candidates and classes are shuffled, then every class in turn takes a picture.

    Args:
        candidates: the last memory, then the pictures of the step that has ended; a picture that is in both shows the
            classes of both.
        num_channels: of the model before this step, background included.
        config: size, and whether a picture may be kept twice.
        seed: of both shuffles, by numpy's legacy generator as published.

    Returns:
        At most `config.size` pictures, by the class they were taken for.
    """
    rng = np.random.RandomState(seed)
    pool, order = list(candidates), list(range(1, num_channels))
    if config.unique:
        pool = _merged(pool)
    rng.shuffle(pool)
    rng.shuffle(order)
    return take_in_turn(pool, order, config.size)


def _merged(pool: Sequence[Exemplar]) -> list[Exemplar]:
    """Every picture once, at its last place, with all the classes that its records name."""
    channels: dict[str, set[int]] = {}
    for exemplar in reversed(pool):
        channels.setdefault(exemplar.name, set()).update(exemplar.channels)
    return [Exemplar(name, tuple(sorted(shown))) for name, shown in channels.items()][::-1]


def take_in_turn(pool: Sequence[Exemplar], order: Sequence[int], size: int) -> list[Exemplar]:
    """Round after round, every class takes the first remaining picture that shows it, until `size` are taken.

    Ends, other than the published loops, where a round finds nothing. Source: spec/ssul.md 12.1, spec/dkd.md section 8.

    >>> a, b = Exemplar("a", (1, 2)), Exemplar("b", (1,))
    >>> [e.name for e in take_in_turn([a, b], order=[2, 1], size=2)]
    ['b', 'a']
    """
    showing = {channel: deque[int]() for channel in order}
    for place, exemplar in enumerate(pool):
        for channel in exemplar.channels:
            if channel in showing:
                showing[channel].append(place)
    gone, taken = set[int](), {channel: list[Exemplar]() for channel in sorted(order)}
    progress = True
    while progress and len(gone) < size:
        progress = False
        for channel in order:
            queue = showing[channel]
            while queue and queue[0] in gone:
                queue.popleft()
            if queue and len(gone) < size:
                place = queue.popleft()
                gone.add(place)
                taken[channel].append(pool[place])
                progress = True
    return [exemplar for group in taken.values() for exemplar in group]


def to_json(exemplars: Sequence[Exemplar]) -> list[dict[str, Any]]:
    """The form of ``memory.json``."""
    return [{"name": e.name, "channels": list(e.channels)} for e in exemplars]


def from_json(records: Sequence[Mapping[str, Any]]) -> list[Exemplar]:
    """Back from `to_json`."""
    return [Exemplar(r["name"], tuple(r["channels"])) for r in records]


class MemoryDataset(Dataset[Item | Placed]):
    """A step's pictures with kept ones behind them; ``extras["memory"]`` tells them apart.

    Args:
        current: the step's pictures.
        exemplars: the kept ones.
        config: how they are labelled and mixed.
        lut: dataset id -> channel for kept pictures, where it is another than the step's.

    Raises:
        UserError: for a picture that the split no longer has.
    """

    def __init__(
        self, current: StepDataset, exemplars: Sequence[Exemplar], config: MemoryConfig, lut: np.ndarray[Any, Any]
    ) -> None:
        names = sorted({*(e.name for e in exemplars)}) if config.unique else sorted(e.name for e in exemplars)
        places = {current.source.name(i): i for i in range(len(current.source))} if names else {}
        for name in names:
            if name not in places:
                raise UserError(f"the memory holds '{name}', which the training split lacks: restore the picture")
        self.current, self.mix, self.lut = current, config.mix, lut
        self.kept = tuple(places[name] for name in names)
        self.step = current.step

    def __len__(self) -> int:
        """Pictures of an epoch."""
        return len(self.current) + (len(self.kept) if self.mix == "append" else 0)

    def __getitem__(self, key: Key) -> Item | Placed:
        first, current = len(self.current), self.current
        old = key[1] >= first
        index = self.kept[key[1] - first] if old else current.images[key[1]]
        return current.load(index, key, self.lut if old else current.lut, {"memory": torch.tensor(old)})


class ReplacingSampler(Sampler[list[Key]]):
    """Batches of the step in which kept pictures stand at half of the places.

    The kept pictures come in an order of their own, batch by batch as large as the step's and at the same places; where
    there are fewer than a batch they are doubled, each copy with its own augmentation. Source: spec/ssul.md 12.2.

    Args:
        base: the step's batches.
        first: position of the first kept picture in its data set.
        count: of kept pictures.
    """

    def __init__(self, base: EpochSampler, first: int, count: int) -> None:
        self.base, self.first = base, first
        self.batch = base.batch_size * base.world
        self.count, self.copies = count, next(1 << n for n in range(64) if count << n >= self.batch)

    def __len__(self) -> int:
        return len(self.base)

    def __iter__(self) -> Iterator[list[Key]]:
        base, size = self.base, self.count * self.copies
        per_epoch = size // self.batch
        for iteration, batch in enumerate(base, start=base.start):
            epoch, place = divmod(iteration, per_epoch)
            order = np.random.default_rng([base.seed, base.step, epoch, 1]).permutation(size)
            start = place * self.batch + base.rank * base.batch_size
            chosen = numbered(epoch, order[start : start + base.batch_size], self.count, self.copies)
            kept = [(number, self.first + i) for number, i in chosen]
            rng = np.random.default_rng([base.seed, base.step, iteration, base.rank, 2])
            yield replaced(batch, kept, rng.permutation(len(batch))[: len(batch) // 2])


def replaced(batch: Sequence[Any], kept: Sequence[Any], places: Sequence[int] | np.ndarray[Any, Any]) -> list[Any]:
    """The batch with the kept items at some places.

    >>> replaced("abcd", "WXYZ", [3, 0])
    ['W', 'b', 'c', 'Z']
    """
    chosen = {int(p) for p in places}
    return [kept[i] if i in chosen else item for i, item in enumerate(batch)]
