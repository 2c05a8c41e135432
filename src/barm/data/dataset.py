"""The pictures of one step, and the order in which every process sees them.

Every random choice is a function of (seed, step, epoch, index): neither the number of workers nor a restart changes it.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import partial
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from barm.data.device_transforms import Placed, place
from barm.data.sources.base import Source, load
from barm.data.transforms import EvalTransform, TrainTransform, eval_transform, train_transform
from barm.errors import Failed, UserError
from barm.labels import LabelPolicy, Lut, Step, TaskPlan

START_METHOD = "fork" if sys.platform.startswith("linux") else "spawn"  # of loaders: elsewhere a fork may crash
Item = tuple[Tensor, Tensor, dict[str, Tensor]]  # (3, H, W), (H, W) and maps, uint8
Key = tuple[int, int]  # epoch (of `numbered`), position in the step's pictures


class Unread(NamedTuple):
    """In the place of a batch: why one of its pictures could not be read."""

    message: str


class StepDataset(Dataset[Item | Placed]):
    """The pictures that a step may use, with its labels.

    Args:
        source: the training split.
        plan: the scenario.
        step: one of its steps.
        policy: what hidden classes look like, and whose pictures count (joint training uses those of all steps so far).
        transform: augmentation.
        seed: of the augmentation.
        on_device: items are what `barm.data.device_transforms` finishes, instead of augmented pictures.

    Raises:
        UserError: if no picture belongs to the step.
    """

    def __init__(
        self,
        source: Source,
        plan: TaskPlan,
        step: Step,
        policy: LabelPolicy,
        transform: TrainTransform,
        seed: int,
        *,
        on_device: bool = False,
    ) -> None:
        selects = plan.selects_seen if policy.supervision == "seen" else plan.selects
        self.images = tuple(i for i in range(len(source)) if selects(step, source.classes_in(i), source.name(i)))
        if not self.images:
            learned = ", ".join(source.class_names[i] for i in step.new)
            raise UserError(
                f"no training picture belongs to step {step.index} ({learned}) in the {plan.setting} setting; "
                "add pictures or choose another task or setting"
            )
        self.source, self.step, self.transform, self.seed = source, step, transform, seed
        self.lut, self.on_device = plan.train_lut(step, policy), on_device

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: Key) -> Item | Placed:
        return self.load(self.images[key[1]], key, self.lut, {})

    def load(self, index: int, key: Key, lut: Lut, marks: dict[str, Tensor]) -> Item | Placed:
        """One picture of the source under the augmentation that belongs to the key, with further scalars by name."""
        rng = np.random.default_rng([self.seed, self.step.index, *key])
        marks = {"index": torch.tensor(index), **marks}
        if self.on_device:
            part, mask, maps, placing = place(load(self.source, index), lut, rng, self.transform)
            return part, mask, {**maps, **marks}, placing
        image, label, extras = train_transform(load(self.source, index), lut, rng, self.transform)
        return image, label, {**extras, **marks}


class StepView(Dataset[Item]):
    """A step's pictures with its training labels, seen as in evaluation, in order."""

    def __init__(self, step: StepDataset, transform: EvalTransform) -> None:
        self.step, self.transform = step, transform

    def __len__(self) -> int:
        return len(self.step)

    def __getitem__(self, position: int) -> Item:
        index = self.step.images[position]
        image, label, extras = eval_transform(load(self.step.source, index), self.step.lut, self.transform)
        return image, label, {**extras, "index": torch.tensor(index)}

    def shapes(self) -> list[Hashable]:
        """Equal for pictures that fit into one batch."""
        return _shapes(self.step.source, self.step.images, self.transform)


class EvalDataset(Dataset[Item]):
    """The whole validation split with the labels of all classes seen so far."""

    def __init__(
        self, source: Source, plan: TaskPlan, step: Step, policy: LabelPolicy, transform: EvalTransform
    ) -> None:
        self.source, self.transform = source, transform
        self.lut = plan.eval_lut(step, policy)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Item:
        sample = load(self.source, index)._replace(extras={})
        image, label, _ = eval_transform(sample, self.lut, self.transform)
        return image, label, {"index": torch.tensor(index)}

    def shapes(self) -> list[Hashable]:
        """Equal for pictures that fit into one batch."""
        return _shapes(self.source, range(len(self)), self.transform)


def iterations_per_epoch(num_images: int, batch_size: int, world: int) -> int:
    """Updates per epoch: whole global batches only, but at least one (a small step's pictures are then repeated)."""
    return max(1, num_images // (batch_size * world))


def numbered(epoch: int, places: NDArray[np.intp], count: int, copies: int) -> list[Key]:
    """Keys of an epoch in which pictures are repeated: every copy of a picture has a number, so that no two are alike.

    Args:
        epoch: number of the pass.
        places: in the pictures, one copy of all after the other: picture ``p % count``, copy ``p // count``.
        count: of the pictures.
        copies: of each.

    >>> numbered(3, np.array([1, 4]), count=3, copies=2)
    [(6, 1), (7, 1)]
    """
    return [(epoch * copies + int(p) // count, int(p) % count) for p in places]


class EpochSampler(Sampler[list[Key]]):
    """One process's batches for the iterations ``start .. epochs * iterations_per_epoch``, over all epochs in one pass.

    Args:
        num_images: of the step.
        batch_size: per process.
        epochs: of the step.
        start: first iteration.
        rank: of this process.
        world: number of processes.
        seed: of the order.
        step: index of the step.
    """

    def __init__(
        self, num_images: int, batch_size: int, epochs: int, start: int, rank: int, world: int, seed: int, step: int
    ) -> None:
        self.num_images, self.batch_size, self.rank, self.world = num_images, batch_size, rank, world
        self.seed, self.step, self.start = seed, step, start
        self.per_epoch = iterations_per_epoch(num_images, batch_size, world)
        self.total = epochs * self.per_epoch

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


def make_train_loader(
    dataset: Dataset[Item | Placed],
    sampler: Sampler[list[Key]],
    *,
    workers: int,
    on_device: bool = False,
    pin: bool = False,
) -> DataLoader[Any]:
    """The sampler's batches: pictures and labels uint8, extras by name; with `on_device` lists of items.

    `pin` puts them where a GPU can fetch them while it computes. A batch with a picture that cannot be read is an
    `Unread`.
    """
    options = _options(workers, pin, list if on_device else None)
    return DataLoader(_Reporting(dataset), batch_sampler=sampler, **options)


def make_eval_loader(
    dataset: EvalDataset | StepView, *, batch_size: int, rank: int, world: int, workers: int, pin: bool = False
) -> DataLoader[Item]:
    """This process's share of the pictures, in batches of one size; `Unread` as in `make_train_loader`."""
    batches = same_size_batches(dataset.shapes(), batch_size)[rank::world]
    return DataLoader(_Reporting(dataset), batch_sampler=batches, **_options(workers, pin))


def lost_worker(iterator: Any) -> bool:
    """Did a process of a loader's iterator end by itself? What it had sent then cannot be received, in many ways."""
    workers = getattr(iterator, "_workers", ())
    for worker in workers:
        worker.join(0.2)
    return any(worker.exitcode is not None for worker in workers)


def end_workers(iterator: Any) -> None:
    """End the processes of a loader's iterator, however the work ended; without any it does nothing.

    They leave stop signals to the main process, and torch asks the last ones by such a signal.
    """
    workers = getattr(iterator, "_workers", ())
    if workers:
        iterator._shutdown_workers()
    for worker in workers:
        if worker.is_alive():
            worker.kill()
            worker.join()


def same_size_batches(shapes: Sequence[Hashable], batch_size: int) -> list[list[int]]:
    """Positions in batches whose pictures have one shape, in the order in which the batches begin.

    >>> same_size_batches(["a", "b", "a", "a"], 2)
    [[0, 2], [1], [3]]
    """
    groups: dict[Hashable, list[int]] = {}
    for position, shape in enumerate(shapes):
        groups.setdefault(shape, []).append(position)
    cut = (g[i : i + batch_size] for g in groups.values() for i in range(0, len(g), batch_size))
    return sorted(cut, key=lambda batch: batch[0])


def _shapes(source: Source, images: Sequence[int], transform: EvalTransform) -> list[Hashable]:
    """What the evaluation makes of the pictures' shapes: one where it crops, else their sizes where they are known."""
    if transform.crop is not None:
        return [None] * len(images)
    sizes = getattr(source, "sizes", ())
    return [sizes[i] if sizes else (i,) for i in images]


class _Reporting(Dataset[Any]):
    """A data set whose unreadable pictures are values: as an exception a worker would send its whole traceback."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, key: Any) -> Any:
        try:
            return self.dataset[key]
        except Failed as error:
            return Unread(str(error))


def _collate(collate: Callable[[list[Any]], Any], items: list[Any]) -> Any:
    """The items as a batch, or the first that could not be read."""
    return next((item for item in items if isinstance(item, Unread)), None) or collate(items)


def _options(workers: int, pin: bool, collate: Callable[[list[Any]], Any] | None = None) -> dict[str, Any]:
    options: dict[str, Any] = {
        "num_workers": workers,
        "collate_fn": partial(_collate, collate or default_collate),
        "pin_memory": pin,
    }
    if workers:
        options |= {"worker_init_fn": _start_worker, "prefetch_factor": 4, "multiprocessing_context": START_METHOD}
    return options


def _start_worker(_worker: int) -> None:
    """Leave stop signals to the main process, which saves first and then ends the workers; one thread per worker."""
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_IGN)
    torch.set_num_threads(1)
    sys.excepthook = _tell


def _tell(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Show what went wrong in a worker, but not that the main process ended while something was handed over."""
    if not issubclass(kind, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, trace)
