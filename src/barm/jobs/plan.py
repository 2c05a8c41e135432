"""The plan of a grid on many devices, and where its files lie. Nothing here needs torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from barm.errors import UserError
from barm.reading import Unfit, read_json
from barm.writing import write_atomically

Read = TypeVar("Read", bound=BaseModel)


class Table(BaseModel):
    """A record in a file."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class JobOptions(Table):
    """Where the runs of a grid are trained, and with what.

    Attributes:
        on: ``local`` is this machine, ``slurm`` a cluster.
        jobs: runs at the same time. By default one per GPU here, one without GPUs; on a cluster as many as it allows.
        gpus: of a run, 1 or 0. By default 1, or 0 on this machine if it has none.
        cpus: threads of a run. By default this machine's cores divided by `jobs`; on a cluster 4.
        memory: of a run in GB; on a cluster alone, whose own default holds otherwise.
        time: minutes until a job must save and end; then it is queued again and goes on. By default 24 hours on a
            cluster, and no limit here.
        partition: of the cluster.
        slurm: further options of `sbatch` by their long names, such as ``{"account": "vision"}``; a flag is True, as in
            ``{"exclusive": True}``. They replace those that barm sets, except the ones on which a grid depends.
    """

    on: Literal["local", "slurm"] = "local"
    jobs: int | None = Field(None, ge=1)
    gpus: int | None = Field(None, ge=0, le=1)
    cpus: int | None = Field(None, ge=1)
    memory: float | None = Field(None, gt=0)
    time: int | None = Field(None, ge=1)
    partition: str | None = None
    slurm: dict[str, str | Literal[True]] = Field(default_factory=dict)


class PlannedRun(Table):
    """One run.

    Attributes:
        name: its folder, below the grid's.
        method: of the run, as are `task`, `setting`, `order` and `seed`.
        finished: whether it was when the plan was made.
        starts: names of runs before it whose step 0 is the same training; it waits for the first of them.
    """

    name: str
    method: str
    task: str
    setting: str
    order: int
    seed: int
    finished: bool
    starts: tuple[str, ...]


class Plan(Table):
    """What is to be done.

    Attributes:
        version: of the file's format.
        grid: as `barm.grid.GridConfig` reads it.
        root: the data set's folder.
        host: the machine on which it was made.
        cwd: the folder in which it was made, to which paths in the settings are relative.
        options: with nothing left open that a job needs.
        devices: numbers of the GPUs of this machine that the runs share, one each.
        runs: in the order of the grid.
    """

    version: Literal[1] = 1
    grid: dict[str, Any]
    root: str
    host: str
    cwd: str
    options: JobOptions
    devices: tuple[str, ...] = ()
    runs: tuple[PlannedRun, ...]


class Places(NamedTuple):
    """The files of a grid's jobs, below its folder `out`."""

    out: Path

    @property
    def folder(self) -> Path:
        """Of all these files."""
        return self.out / "jobs"

    @property
    def plan(self) -> Path:
        """The plan."""
        return self.folder / "plan.json"

    @property
    def cancelled(self) -> Path:
        """A file that is there while nothing is to be trained."""
        return self.folder / "cancelled"

    @property
    def engine(self) -> Path:
        """The folder of submitit."""
        return self.folder / "submitit"

    def lock(self, what: str) -> Path:
        """The lock of a process: ``keeper``, ``submit``, or a run's name."""
        return self.of(what, ".lock")

    def of(self, name: str, ending: str) -> Path:
        """A file about a run, in a folder that is there."""
        path = self.folder / f"{name}{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


def read_plan(places: Places) -> Plan:
    """Read the plan.

    Raises:
        UserError: there is none, or it is damaged.
    """
    found = read_record(places.plan, Plan, lambda what: f"{places.plan} is damaged ({what}): remove {places.folder}")
    if found is None:
        raise UserError(
            f"{places.out} has no jobs: start the runs with `barm compare --grid FILE --on local`, or --on slurm"
        )
    return found


def read_record(path: Path, kind: type[Read], damaged: Callable[[str], str]) -> Read | None:
    """Read a record, None if there is none.

    Args:
        path: of the file.
        kind: of the record.
        damaged: makes the message of what is wrong with the file.

    Raises:
        UserError: with that message.
    """
    try:
        return kind.model_validate(read_json(path))
    except FileNotFoundError:
        return None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        what = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    except Unfit as error:
        what = error.what
    raise UserError(damaged(what))


def write_record(path: Path, record: BaseModel) -> None:
    """Write a record, completely or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (record.model_dump_json(indent=1) + "\n").encode())
