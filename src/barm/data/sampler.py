"""Samplers: the order in which every process sees the images of a step.

Every random choice is a function of (seed, step, epoch, index): neither the number of workers nor a restart changes it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

Key = tuple[int, int]  # epoch (of `numbered`), position in the step's images


def iterations_per_epoch(num_images: int, batch_size: int, world: int) -> int:
    """Updates per epoch: whole global batches only, but at least one.

    If a step has fewer images than a global batch, they are repeated.
    """
    return max(1, num_images // (batch_size * world))


def numbered(epoch: int, places: NDArray[np.intp], count: int, copies: int) -> list[Key]:
    """Number the copies of an epoch with repeated images, so that each copy has a key of its own.

    Args:
        epoch: number of the pass.
        places: in the images, one copy of all after the other: image ``p % count``, copy ``p // count``.
        count: of the images.
        copies: of each.

    >>> numbered(3, np.array([1, 4]), count=3, copies=2)
    [(6, 1), (7, 1)]
    """
    return [(epoch * copies + int(p) // count, int(p) % count) for p in places]


class EpochSampler(Sampler[list[Key]]):
    """Batches of one process, pass after pass, from iteration `start` on.

    Args:
        num_images: of the step.
        batch_size: per process.
        total: updates of the step; the last pass may end in between.
        start: first iteration.
        rank: of this process.
        world: number of processes.
        seed: of the order.
        step: index of the step.
    """

    def __init__(
        self, num_images: int, batch_size: int, total: int, start: int, rank: int, world: int, seed: int, step: int
    ) -> None:
        self.num_images, self.batch_size, self.rank, self.world = num_images, batch_size, rank, world
        self.seed, self.step, self.start, self.total = seed, step, start, total
        self.per_epoch = iterations_per_epoch(num_images, batch_size, world)

    def __len__(self) -> int:
        return self.total - self.start

    def __iter__(self) -> Iterator[list[Key]]:
        epoch, order, count = -1, np.empty(0, np.intp), self.num_images
        length = max(count, self.batch_size * self.world)
        copies = -(-length // count)
        for iteration in range(self.start, self.total):
            if iteration // self.per_epoch != epoch:
                epoch = iteration // self.per_epoch
                order = np.random.default_rng([self.seed, self.step, epoch]).permutation(count)
                order = np.concatenate([order + copy * count for copy in range(copies)])[:length]
            first = (iteration % self.per_epoch * self.world + self.rank) * self.batch_size
            yield numbered(epoch, order[first : first + self.batch_size], count, copies)


class OnceSampler(Sampler[list[Key]]):
    """Batches of one process in which every image occurs once, augmented as in the first epoch; the last may be small.

    Args:
        num_images: of the step.
        batch_size: per process.
        rank: of this process.
        world: number of processes.
    """

    def __init__(self, num_images: int, batch_size: int, rank: int, world: int) -> None:
        self.num_images, self.batch_size, self.rank, self.world = num_images, batch_size, rank, world

    def __len__(self) -> int:
        return len(range(self.rank * self.batch_size, self.num_images, self.batch_size * self.world))

    def __iter__(self) -> Iterator[list[Key]]:
        for first in range(self.rank * self.batch_size, self.num_images, self.batch_size * self.world):
            yield [(0, i) for i in range(first, min(first + self.batch_size, self.num_images))]


class ReplacingSampler(Sampler[list[Key]]):
    """Batches of the step in which exemplars take half of the places.

    The exemplars come in an order of their own, batch by batch as large as the step's and at the same places. If
    there are fewer than a batch, they are repeated, each copy with its own augmentation. Source: spec/ssul.md 12.2.

    Args:
        base: the step's batches.
        first: position of the first exemplar in the data set.
        count: number of exemplars.
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


class BesideSampler(Sampler[list[Key]]):
    """Batches of a step, each followed by images without labels, in an order of their own that goes round.

    Args:
        base: the step's batches.
        first: position of the first image without labels in the data set.
        count: number of these.
        batch_size: of these per batch and process.
    """

    def __init__(self, base: EpochSampler | ReplacingSampler, first: int, count: int, batch_size: int) -> None:
        self.base, self.first, self.count, self.batch_size = base, first, count, batch_size
        self.epochs = base if isinstance(base, EpochSampler) else base.base
        self._known = (-1, np.empty(0, np.intp))  # the order of a pass

    def __len__(self) -> int:
        return len(self.base)

    def __iter__(self) -> Iterator[list[Key]]:
        epochs, size = self.epochs, self.batch_size
        for iteration, batch in enumerate(self.base, start=epochs.start):
            start = (iteration * epochs.world + epochs.rank) * size
            yield [*batch, *(self._key(place) for place in range(start, start + size))]

    def _key(self, place: int) -> Key:
        """The image at a place of all passes one after the other."""
        epoch, at = divmod(place, self.count)
        return epoch, self.first + int(self._order(epoch)[at])

    def _order(self, epoch: int) -> NDArray[np.intp]:
        if self._known[0] != epoch:
            rng = np.random.default_rng([self.epochs.seed, self.epochs.step, epoch, 3])
            self._known = (epoch, rng.permutation(self.count))
        return self._known[1]


def replaced(batch: Sequence[Any], kept: Sequence[Any], places: Sequence[int] | np.ndarray[Any, Any]) -> list[Any]:
    """The batch with exemplars at the given places.

    >>> replaced("abcd", "WXYZ", [3, 0])
    ['W', 'b', 'c', 'Z']
    """
    chosen = {int(p) for p in places}
    return [kept[i] if i in chosen else item for i, item in enumerate(batch)]
