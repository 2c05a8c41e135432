"""Settle what an official checkpoint was trained on: what the user says, then its name, then its tensors."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from barm.errors import UserError
from barm.weights.kind import Kind
from barm.weights.steps import SIZES, dataset_of, tasks_of

FILE_NAME = re.compile(r"(?P<model>deeplab\w+?)_(?P<dataset>voc|ade)_(?P<task>[\w-]+?)_step_(?P<step>\d+)_\w+")


@dataclass(frozen=True)
class Origin:
    """What an official checkpoint was trained on.

    Attributes:
        dataset: ``voc`` or ``ade``.
        task: as in a recipe's name.
        step: index of the step that it was saved after.
        model: published name of the network.
        method: of barm.
        others: further tasks that fit as well.
    """

    dataset: str
    task: str
    step: int
    model: str
    method: str
    others: tuple[str, ...] = ()


def settle(
    kind: Kind,
    path: Path,
    *,
    dataset: str | None = None,
    task: str | None = None,
    step: int | None = None,
    model: str | None = None,
    method: str | None = None,
) -> Origin:
    """Fill in what was not said.

    Args:
        kind: of the file.
        path: of the file; official names say model, data set and task.
        dataset: as the user says; likewise the others.
        task: likewise.
        step: likewise.
        model: likewise.
        method: likewise.

    Raises:
        UserError: if the file contradicts it, or does not tell what is missing.
    """
    if kind.use != "import" and None in (dataset, task, step, model):
        raise UserError(kind.line(path))
    named = _named(path, kind)
    dataset = dataset or named.get("dataset") or (dataset_of(kind.groups) if kind.groups else None)
    fitting = tasks_of(kind.groups, dataset) if dataset in SIZES and kind.groups else []
    task = task or named.get("task") or next(iter(fitting), None)
    step = kind.step if step is None else step
    sizes = _sizes(str(dataset), str(task)) if kind.method == "segacil" else ()
    if step is None and sizes:
        step = _step_of(kind, path, sizes, f"--dataset {dataset} --task {task}")
    model = model or kind.model or named.get("model")
    missing = [n for n, v in (("--dataset", dataset), ("--task", task), ("--model", model)) if not v]
    if missing or step is None:
        lacks = " and ".join(missing or ["--step"])
        raise UserError(f"{path} is {kind.name}, and does not tell all that an import needs: give {lacks}")
    _check_same(kind, path, step, str(model), str(dataset), str(task))
    others = tuple(t for t in fitting if t != task) if "task" not in named else ()
    return Origin(str(dataset), str(task), step, str(model), method or kind.method or "barm", others)


def _named(path: Path, kind: Kind) -> dict[str, str]:
    """What an official file's name says, unless its tensors say otherwise."""
    match = FILE_NAME.match(path.name)
    if match is None or (kind.groups and int(match["step"]) != kind.step):
        return {}
    named = match.groupdict()
    return (
        named if not kind.groups or _sizes(named["dataset"], named["task"])[: len(kind.groups)] == kind.groups else {}
    )


def _check_same(kind: Kind, path: Path, step: int, model: str, dataset: str, task: str) -> None:
    """Refuse what the tensors contradict.

    Raises:
        UserError: for another step, network or task.
    """
    wrong = ""
    if kind.step is not None and step != kind.step:
        wrong = f"--step {step}"
    elif kind.model and _network(model) != _network(kind.model):
        wrong = f"--model {model}"
    sizes = _sizes(dataset, task)[: len(kind.groups)]
    if not wrong and kind.groups and sizes and sizes != kind.groups:
        wrong = f"--dataset {dataset} --task {task}"
    if wrong:
        raise UserError(f"{wrong} does not fit: {path} is {kind.name}; leave it out, or give another file")


def _step_of(kind: Kind, path: Path, sizes: tuple[int, ...], given: str) -> int:
    """The step of a task after which a network has the outputs of this one.

    Raises:
        UserError: if there is none.
    """
    outputs = [1 + sum(sizes[: i + 1]) for i in range(len(sizes))]
    if kind.outputs in outputs:
        return outputs.index(kind.outputs)
    after = ", ".join(map(str, outputs))
    raise UserError(f"{given} does not fit: {path} is {kind.name}; expected {after} after the steps of that task")


def _network(model: str) -> str:
    """Name of the network that a published name means: BARM's are DeepLabV3."""
    return model.replace("deeplabv3bga_", "deeplabv3_")


def _sizes(dataset: str, task: str) -> tuple[int, ...]:
    """Classes per step of a task; none if it is not of the form that says it."""
    match = re.fullmatch(r"(\d{1,9})-(\d{1,9})(_\w)?", task)
    if dataset not in SIZES:
        return ()
    if task == "offline":
        return (SIZES[dataset],)
    if match is None or int(match[2]) == 0:
        return ()
    first, increment = int(match[1]), int(match[2])
    return (first, *[increment] * max(0, (SIZES[dataset] - first) // increment))
