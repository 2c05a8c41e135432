"""Load a trained network from a run, a file or a hub."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from barm.engine.checkpoint.checksums import crc_of_tensors
from barm.engine.checkpoint.directory import METHOD, RunDirectory
from barm.engine.checkpoint.network import load_step, rebuild
from barm.engine.checkpoint.schema import misfit
from barm.engine.config import RuntimeConfig
from barm.errors import UserError
from barm.methods.base import Method
from barm.reading import Unfit, parse_json
from barm.weights.hub import fetch, is_address
from barm.weights.recognise import check_usable
from barm.words import count

KEY = "barm"  # of the description among a file's metadata
FORMAT = 1  # of the description; grows when a reader of old files would misunderstand a new one


@dataclass(frozen=True)
class Trained:
    """A trained network with its record.

    Attributes:
        network: in evaluation mode, on the CPU.
        method: turns the network's output into predictions.
        record: as in ``method.json``.
        runtime: as the run was configured.
        origin: provenance, seed, task and setting of the run.
    """

    network: nn.Module
    method: Method[Any, Any]
    record: Mapping[str, Any]
    runtime: RuntimeConfig
    origin: Mapping[str, Any]


def open_trained(where: Path | str, step: int | None = None) -> Trained:
    """Load the network of a run, of a file that ``barm export --format safetensors`` wrote, or of a hub.

    Args:
        where: a folder, a file, or ``hf://owner/name[@revision]``.
        step: which step of a run, the last by default; a file or a hub holds one.

    Raises:
        UserError: if there is none, it is damaged, or it holds another step.
    """
    if is_address(where):
        return _from_file(fetch(where), step)
    path = Path(where)
    if path.is_file():
        return _from_file(path, step)
    check_usable(path)
    return _from_run(RunDirectory(path), step)


def _from_run(directory: RunDirectory, step: int | None) -> Trained:
    config = directory.config()
    index = directory.last_step() if step is None else step
    network, method = load_step(directory, index)
    task = config.task
    origin = {
        **directory.provenance(),
        "seed": config.seed,
        "setting": task.setting,
        "task": task.name or [list(g) for g in task.groups or ()],
    }
    return Trained(network, method, directory.read(index, METHOD), config.runtime, origin)


def _from_file(path: Path, step: int | None) -> Trained:
    check_usable(path)
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(KEY)
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no dict
        description = parse_json(text or "{}", path)
    except Unfit as error:
        raise UserError(f"{path}: the description in its header {error.what}; give another file") from None
    except (OSError, SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise UserError(
            f"{path} cannot be read as safetensors ({' '.join(str(error).split())[:100]}): give a run's folder, or a "
            "file that `barm export --format safetensors` wrote"
        ) from None
    if not isinstance(description, dict) or "trained" not in description:
        raise UserError(
            f"{path} is no model of barm (its header has no description): give a run's folder, or a file that "
            "`barm export --format safetensors` wrote"
        )
    try:
        if description.get("crc32", crc := crc_of_tensors(path)) != crc:  # older versions wrote none
            raise UserError(f"{path} is damaged (its tensors do not fit their checksum): export or fetch it again")
        return _described(description, state, path, step)
    except UserError:
        raise
    except Exception as error:  # whatever a stranger may have written
        raise UserError(
            f"{path}: the description in its header does not fit ({' '.join(repr(error).split())[:120]}): give another "
            "file, or write it anew with `barm export --format safetensors`"
        ) from None


def _described(description: Mapping[str, Any], state: Mapping[str, Tensor], path: Path, step: int | None) -> Trained:
    if description["format"] > FORMAT:
        raise UserError(f"{path} was written by barm {description['barm']}, which is newer: update barm to read it")
    if step not in (None, description["step"]):
        raise UserError(f"{path} holds step {description['step']} alone, asked for {step}: leave --step out")
    record = description["trained"]
    wrong = misfit(METHOD, record)
    if wrong is None and len(record["groups"]) != description["step"] + 1:
        wrong = f"{count(len(record['groups']), 'groups')} at step {description['step']}"
    if wrong is not None:
        raise UserError(f"{path}: the description in its header does not fit ({wrong}): give another file")
    network, method = rebuild(record, description["step"], state, str(path))
    return Trained(network, method, record, RuntimeConfig(), description["provenance"])
