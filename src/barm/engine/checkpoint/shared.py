"""A run's folder for several processes: the main process reads it, and all use its result."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from barm.engine.checkpoint.directory import RunDirectory
from barm.engine.config import RunConfig
from barm.engine.runtime import Runtime


class SharedDirectory(RunDirectory):
    """A run's folder that only the main process reads and writes; the others receive what it reads.

    A shared file system may show another machine an older state for a minute (NFS keeps attributes), and processes that
    decide differently wait for each other for ever. So every reading method is one that all processes call together.

    Args:
        path: ``runs/<name>``, in the main process; the others need no such folder.
        rt: the runtime.
    """

    def __init__(self, path: Path, rt: Runtime) -> None:
        super().__init__(path)
        self._rt = rt

    def is_complete(self, index: int) -> bool:
        """Whether the step is finished."""
        return self._rt.from_main(partial(super().is_complete, index))

    def is_extension(self) -> bool:
        """Whether `barm extend` made the run."""
        return self._rt.from_main(super().is_extension)

    def finished_steps(self) -> list[int]:
        """Indices of the finished steps, ascending."""
        return self._rt.from_main(super().finished_steps)

    def has(self, index: int, name: str) -> bool:
        """Whether a finished step has this file."""
        return self._rt.from_main(partial(super().has, index, name))

    def read(self, index: int, name: str) -> Any:
        """Read one of a finished step's JSON files."""
        return self._rt.from_main(partial(super().read, index, name))

    def load_model_state(self, index: int) -> dict[str, Tensor]:
        """Load the tensors of a finished step, on the CPU."""
        return self._rt.from_main(partial(super().load_model_state, index))

    def load_carried(self, index: int) -> dict[str, Tensor]:
        """Load what a finished step's method hands on; empty if it hands on nothing."""
        return self._rt.from_main(partial(super().load_carried, index))

    def load_partial(self, index: int) -> dict[str, Any] | None:
        """Load the trainer's state of an unfinished step, or None."""
        return self._rt.from_main(partial(super().load_partial, index))

    def config(self) -> RunConfig:
        """The saved configuration."""
        return self._rt.from_main(super().config)

    def provenance(self) -> dict[str, Any]:
        """Versions, machine and commit that the run was made with, as saved."""
        return self._rt.from_main(super().provenance)

    def close(self) -> None:
        """Release the lock in the process that holds it; the others may have ended."""
        with self._rt.alone():
            super().close()
