"""Processes of the program without the seconds that Python and torch take to start: the test's own process is forked.

`tests/docs` runs the documents' commands in forked processes too, `tests/runs/test_processes.py`, `test_platforms.py`
and `tests/app` start real ones.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import torch

import barm.report.tables  # noqa: F401
from barm.cli import main
from barm.engine.distributed import watch


class Forked:
    """A forked process, with what the tests need of `subprocess.Popen`.

    Args:
        run: what the process does.
        env: variables of its environment, beside the test's.
        cwd: its folder.
    """

    def __init__(self, run: Callable[[], object], env: Mapping[str, str] | None = None, cwd: Path | None = None):
        self._out, self._err = (tempfile.TemporaryFile("w+") for _ in range(2))  # noqa: SIM115
        files = (self._out.fileno(), self._err.fileno())
        process = multiprocessing.get_context("fork").Process(target=_go_on, args=(run, env or {}, cwd, files))
        process.start()
        assert process.pid is not None
        self._process, self.pid = process, process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Standard output and standard error of the process, which has ended."""
        self._process.join(timeout)
        if self.returncode is None:
            self.kill()
            self._process.join()
            raise subprocess.TimeoutExpired("a forked process", timeout or 0, self.err)
        return self.out, self.err

    @property
    def out(self) -> str:
        """What it has written to standard output so far."""
        return _content(self._out.fileno())

    @property
    def err(self) -> str:
        return _content(self._err.fileno())


def _content(file: int) -> str:
    return os.pread(file, os.fstat(file).st_size, 0).decode()


def _go_on(run: Callable[[], object], env: Mapping[str, str], cwd: Path | None, files: tuple[int, int]) -> None:
    """Be the new process: its streams, its environment, the signals as Python has them at its start."""
    for target, file in enumerate(files, 1):
        os.dup2(file, target)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.environ.update(env)
    if cwd is not None:
        os.chdir(cwd)
    try:
        run()
    finally:
        watch.leave()  # at Python's exit otherwise
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        with suppress(OSError):
            sys.stdout.flush(), sys.stderr.flush()


def command(*words: object) -> Callable[[], object]:
    """The command line with these words."""

    def run() -> None:
        sys.argv = ["barm", *map(str, words)]
        main()

    return run


def script(path: Path, *words: object) -> Callable[[], object]:
    """A Python file with these words."""

    def run() -> None:
        sys.argv = [str(path), *map(str, words)]
        runpy.run_path(str(path), run_name="__main__")

    return run


def ranks(run: Callable[[], object], cwd: Path | None = None, world: int = 2) -> list[Forked]:
    """The processes of a training in several, with the environment that torchrun gives them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    shared |= {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world), "GROUP_RANK": "0"}
    shared |= {"TORCHELASTIC_RUN_ID": "test"}
    return [Forked(run, {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}, cwd) for rank in range(world)]


def ended(processes: list[Forked], timeout: float = 120) -> tuple[list[int | None], list[str]]:
    """Exit statuses of processes, and what each said on standard error."""
    errors = [process.communicate(timeout)[1] for process in processes]
    return [process.returncode for process in processes], errors
