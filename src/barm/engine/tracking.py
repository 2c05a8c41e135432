"""A run's record at Weights & Biases.

It gets the run's configuration and scalars. Files, code and facts about the machine stay out.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from barm.engine.checkpoint.directory import CONFIG
from barm.errors import UserError
from barm.escaping import placeless
from barm.reading import Unfit, read_text, read_toml, short
from barm.writing import write_atomically

FOLDER, ID = "wandb", "run-id"  # in the run's folder, and the file in it
STEP = "trainer/global_step"  # by which the values of a metric are numbered, as Lightning's logger names it


def wanted(directory: Path) -> dict[str, Any] | None:
    """The stored configuration of a run that asks for Weights & Biases; None for any other.

    Args:
        directory: the run's folder.

    Raises:
        UserError: if the library is not installed.
    """
    if not (directory / CONFIG).is_file():
        return None
    table = read_toml(directory / CONFIG)
    if table.get("runtime", {}).get("wandb", "off") == "off":
        return None
    if find_spec("wandb") is None:
        raise UserError(
            f"runtime.wandb is '{table['runtime']['wandb']}', but wandb is not installed: pip install wandb, or take "
            "runtime.wandb=off"
        )
    return table


def start_record(directory: Path, table: Mapping[str, Any]) -> Any:
    """Begin or continue the run's record at Weights & Biases. All its files are below the run's folder.

    Args:
        directory: the run's folder.
        table: its configuration, as `wanted` returns it.

    Raises:
        UserError: if nobody is logged in, or the server cannot be reached.
    """
    import wandb

    mode, task = table["runtime"]["wandb"], table["task"].get("name") or "own-task"
    try:
        with _cache_below(directory / FOLDER):
            record: Any = wandb.init(
                project=os.environ.get("WANDB_PROJECT") or re.sub(r"[^\w.-]", "-", f"barm-{task}"),
                name=directory.absolute().name,
                group=table["method"]["name"],
                id=run_id(directory),
                resume="allow" if mode == "online" else None,
                mode=mode,
                dir=str(directory),
                reinit="create_new",
                settings=wandb.Settings(
                    console="off",
                    silent=True,
                    disable_git=True,
                    disable_code=True,
                    disable_job_creation=True,
                    x_disable_meta=True,
                    x_disable_stats=True,
                    x_disable_machine_info=True,
                    x_save_requirements=False,
                ),
            )
    except wandb.Error as error:
        raise UserError(
            f"Weights & Biases cannot be used ({short(error)}): log in with `wandb login`, or take "
            "runtime.wandb=offline or off"
        ) from error
    record.define_metric(STEP)
    record.define_metric("*", step_metric=STEP, step_sync=True)
    record.config.update(placeless(table), allow_val_change=True)
    return record


def add_values(record: Any, values: Mapping[str, float], number: int) -> None:
    """Add values of metrics, which are numbered among those of the same names."""
    record.log({**values, STEP: number})


def run_id(directory: Path) -> str:
    """The identifier under which Weights & Biases knows the run, stored in its folder when it is first asked for."""
    path = directory / FOLDER / ID
    try:
        known = read_text(path).strip()
    except FileNotFoundError:
        known = secrets.token_hex(4)
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, f"{known}\n".encode())
    except Unfit as error:
        raise UserError(f"{path} is damaged ({error.what}): remove it to begin another record") from None
    if not re.fullmatch(r"\w{1,64}", known):
        raise UserError(f"{path} is damaged (it holds no identifier): remove it to begin another record")
    return known


def address(record: Any) -> str | None:
    """Where the record is shown; None if it is not sent."""
    shown: str | None = None if record.offline else record.url
    return shown


def end_record(record: Any, *, failed: bool) -> None:
    """Write what is left, and end the record."""
    record.finish(exit_code=int(failed))


@contextmanager
def _cache_below(folder: Path) -> Iterator[None]:
    """Context in which the library's own logs are written below a folder, unless the user named another."""
    name, before = "WANDB_CACHE_DIR", os.environ.get("WANDB_CACHE_DIR")
    os.environ.setdefault(name, str(folder / "cache"))
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
