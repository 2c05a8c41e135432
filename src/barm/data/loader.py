"""Data loaders: their processes, and the handling of images that cannot be read."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from types import TracebackType
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate
from torch.utils.data._utils import signal_handling

from barm.data.dataset import EvalDataset, Item, StepView
from barm.data.device_transforms import Placed
from barm.data.sampler import Key
from barm.errors import Failed

START_METHOD = "fork" if sys.platform.startswith("linux") else "spawn"  # of loaders: elsewhere a fork may crash


class Unread(NamedTuple):
    """A placeholder for a batch with an image that could not be read, and the reason."""

    message: str


def make_train_loader(
    dataset: Dataset[Item | Placed],
    sampler: Sampler[list[Key]],
    *,
    workers: int,
    on_device: bool = False,
    pin: bool = False,
) -> DataLoader[Any]:
    """Load the sampler's batches: images and labels uint8, extras by name.

    With `on_device` they are lists of items. `pin` puts them into pinned memory, from which a GPU copies while it
    computes. A batch with an image that cannot be read is an `Unread`.
    """
    options = _options(workers, pin, list if on_device else None)
    return DataLoader(_Reporting(dataset), batch_sampler=sampler, **options)


def make_eval_loader(
    dataset: EvalDataset | StepView, *, batch_size: int, rank: int, world: int, workers: int, pin: bool = False
) -> DataLoader[Item]:
    """Load this process's share of the images, in batches of one size; `Unread` as in `make_train_loader`."""
    batches = same_size_batches(dataset.shapes(), batch_size)[rank::world]
    return DataLoader(_Reporting(dataset), batch_sampler=batches, **_options(workers, pin))


def same_size_batches(shapes: Sequence[Hashable], batch_size: int) -> list[list[int]]:
    """Group positions into batches of images with one shape, ordered by each batch's first image.

    >>> same_size_batches(["a", "b", "a", "a"], 2)
    [[0, 2], [1], [3]]
    """
    groups: dict[Hashable, list[int]] = {}
    for position, shape in enumerate(shapes):
        groups.setdefault(shape, []).append(position)
    cut = (g[i : i + batch_size] for g in groups.values() for i in range(0, len(g), batch_size))
    return sorted(cut, key=lambda batch: batch[0])


@contextmanager
def no_signal_of_children() -> Iterator[None]:
    """Within this, a process of a loader that is killed is an error of the iterator's `next`, at most 5 s later.

    torch's handler of SIGCHLD would raise the error wherever the main process is at that moment: also within a queue
    of multiprocessing, whose lock then stays taken, so that the main process never ends. A handler of the program
    around rests meanwhile.
    """
    if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
        yield  # torch has no handler there
        return
    signal_handling._set_SIGCHLD_handler()  # once in a process: the first iterator must not set it later
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        yield
    finally:
        if handler is not None:  # None: set by a library in C, which Python cannot set again
            signal.signal(signal.SIGCHLD, handler)


def lost_worker(iterator: Any) -> bool:
    """Whether a process of a loader's iterator ended by itself.

    What it had sent then cannot be received, which shows as one of many errors.
    """
    workers = getattr(iterator, "_workers", ())
    for worker in workers:
        worker.join(0.2)
    return any(worker.exitcode is not None for worker in workers)


def end_workers(iterator: Any) -> None:
    """End the processes of a loader's iterator, however the work ended.

    The processes ignore stop signals, and torch ends the last ones by such a signal.
    """
    workers = getattr(iterator, "_workers", ())
    if workers:
        iterator._shutdown_workers()
    for worker in workers:
        if worker.is_alive():
            worker.kill()
            worker.join()


class _Reporting(Dataset[Any]):
    """A data set that returns unreadable images as values. As an exception a worker would send its whole traceback."""

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
    """Collate the items to a batch, or return the first one that could not be read."""
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
    """Prepare a worker: ignore stop signals, since the main process saves first and then ends it; use one thread."""
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_IGN)
    torch.set_num_threads(1)
    sys.excepthook = _tell


def _tell(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Show errors of a worker, except that the main process ended while something was sent."""
    if not issubclass(kind, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, trace)
