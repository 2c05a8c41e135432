"""A loader whose processes are lost: told as such, whatever error it shows as."""

from __future__ import annotations

import multiprocessing.connection
import os
import signal
import time
from contextlib import closing
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from barm.data.loader import _options
from barm.engine.loaders import _items, _to_device
from barm.errors import Failed


class Sudden(Dataset):
    """Images of which the third ends the process that reads it, in the middle of its work."""

    def __len__(self):
        return 8

    def __getitem__(self, i):
        if i == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.zeros(3, 8, 8, dtype=torch.uint8), torch.zeros(8, 8, dtype=torch.uint8), {}


def test_a_process_that_is_killed_is_told_as_such():
    loader = DataLoader(Sudden(), batch_size=1, **_options(2, pin=False))
    batches = _to_device(loader, SimpleNamespace(device=torch.device("cpu")))
    with pytest.raises(Failed, match=r"was killed .*runtime\.workers"), closing(batches):
        list(batches)


def test_a_killed_process_interrupts_nothing_else():
    """It is an error of the next batch. Raised within a queue of multiprocessing, the main process would never end."""
    with closing(_items(DataLoader(Sudden(), batch_size=1, **_options(2, pin=False)))) as items:
        next(items)
        workers = multiprocessing.active_children()
        multiprocessing.connection.wait([worker.sentinel for worker in workers], 30)
        time.sleep(0.1)
        assert -signal.SIGKILL in [worker.exitcode for worker in workers]
        with pytest.raises(Failed, match="was killed"):
            list(items)
    assert callable(signal.getsignal(signal.SIGCHLD))
    assert not multiprocessing.active_children()


def test_without_processes_a_handler_of_the_program_stays():
    heard = list[int]()
    before = signal.signal(signal.SIGCHLD, lambda signum, frame: heard.append(signum))
    try:
        with closing(_items(DataLoader(Sudden(), batch_size=1, **_options(0, pin=False)))) as items:
            next(items)
            signal.raise_signal(signal.SIGCHLD)
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert heard == [signal.SIGCHLD]


@pytest.mark.parametrize("error", [EOFError(), ConnectionResetError(104, "reset"), FileNotFoundError(2, "gone")])
def test_what_a_dead_process_had_sent(error):
    """An image of a process that has died since cannot be received; which error that is depends on the moment."""

    class Broken:
        def __iter__(self):
            return self

        def __next__(self):
            raise error

    loader = Broken()
    loader.num_workers = 2
    loader._workers = [SimpleNamespace(join=lambda seconds: None, exitcode=-9, is_alive=lambda: False)]
    loader._shutdown_workers = lambda: None
    with pytest.raises(Failed, match="was killed"):
        next(_items(loader))
    loader._workers[0].exitcode = None
    with pytest.raises(type(error)):
        next(_items(loader))
