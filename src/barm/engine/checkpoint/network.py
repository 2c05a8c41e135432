"""Build a trained network from its description and its tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from torch import Tensor, nn

from barm.data.palette import id_palette
from barm.engine.capacity import skeleton
from barm.engine.checkpoint.differences import other_class
from barm.engine.checkpoint.directory import METHOD, RunDirectory
from barm.engine.config import RunConfig
from barm.engine.finite import check_finite
from barm.errors import UserError
from barm.labels import Step, TaskPlan, in_learning_order
from barm.methods import METHODS
from barm.methods.base import Method
from barm.models.segmenter import NetworkConfig, check_names


def rebuild(
    record: Mapping[str, Any], index: int, state: Mapping[str, Tensor], what: str
) -> tuple[nn.Module, Method[Any, Any]]:
    """Build the network of a step in evaluation mode, on the CPU, with its method.

    Args:
        record: as in ``method.json``.
        index: of the step.
        state: the network's tensors.
        what: name of the tensors in messages.

    Raises:
        UserError: if there is no such network or method, the tensors are not those of this
            network, or they hold anything but numbers.
    """
    step = Step(index, tuple(tuple(g) for g in record["groups"]))
    name = record["method"].get("name")
    if not isinstance(name, str) or name not in METHODS:
        raise UserError(f"{what} was trained by '{name}', which is unknown; known: {', '.join(METHODS)}")
    try:
        network = NetworkConfig.stored({**record["model"], "pretrained": False, "weights": None})
        method = METHODS[name].model_validate(record["method"]).build(step, network)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        told = f"{'.'.join(map(str, first['loc']))}: {str(first['msg']).removeprefix('Value error, ')}"
        raise UserError(f"{what} is described wrongly ({told}): restore method.json, or train the run anew") from None
    bare = skeleton(method)
    if bare is not None:
        check_names(bare.state_dict(), dict(state), set(), what)  # before memory is taken for what does not fit
    model = method.build_model()
    check_names(model.state_dict(), dict(state), set(), what)
    check_finite(state, what)
    model.load_state_dict(state)
    return model.eval(), method


def describe_classes(
    config: RunConfig, plan: TaskPlan, step: Step, class_names: Sequence[str], palette: Any
) -> dict[str, Any]:
    """The record from which a step is loaded again: method, network, groups, names and colours by channel."""
    return {
        "method": config.method.model_dump(mode="json"),
        "model": config.model.model_dump(mode="json"),
        "groups": step.groups,
        "num_steps": len(plan),
        "classes": [{"id": i, "name": class_names[i], "colour": [int(v) for v in palette[i]]} for i in (0, *step.seen)],
    }


def renumbered(record: Mapping[str, Any], num_steps: int) -> dict[str, Any]:
    """A record of `describe_classes` with ids in learning order, for a run with another number of steps."""
    classes = [{**c, "id": channel} for channel, c in enumerate(record["classes"])]
    return {**record, "groups": in_learning_order(record["groups"]), "num_steps": num_steps, "classes": classes}


def same_colours(classes: Sequence[Mapping[str, Any]], before: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Carry over the colours of the previous step's classes, so that no two classes have the same colour.

    >>> same_colours([{"colour": [0, 0, 0]}, {"colour": [9, 9, 9]}], [{"colour": [9, 9, 9]}])[1]["colour"]
    [128, 0, 0]
    """
    colours = [list(c["colour"]) for c in before]
    for new in classes[len(before) :]:
        free = (c for c in (list(new["colour"]), *id_palette()[1:].tolist()) if c not in colours)
        colours.append(next(free, list(new["colour"])))
    return [{**c, "colour": colour} for c, colour in zip(classes, colours, strict=True)]


def load_step(
    directory: RunDirectory, index: int, plan: TaskPlan | None = None, class_names: Sequence[str] = ()
) -> tuple[nn.Module, Method[Any, Any]]:
    """Load the network of a finished step in evaluation mode, on the CPU, with its method.

    Args:
        directory: of the run.
        index: of the step.
        plan: of the data that it will be used with, where there are any.
        class_names: of these data by id, background first.

    Raises:
        UserError: if it is not there, or belongs to another task than `plan` or to classes of other names.
    """
    record = directory.read(index, METHOD)
    step = Step(index, tuple(tuple(g) for g in record["groups"]))
    if plan is not None and plan[index] != step:
        raise UserError(
            f"{directory.step_path(index)} learned the groups {record['groups']}, but this task's are "
            f"{[list(g) for g in plan[index].groups]}; use the task it was trained with"
        )
    found = other_class({c["id"]: c["name"] for c in record["classes"]}, class_names) if class_names else None
    if found is not None:
        raise UserError(
            f"{directory.step_path(index)} learned other classes than these data have ({found}): give the data that it "
            "was trained on, or others with the same classes"
        )
    return rebuild(record, index, directory.load_model_state(index), str(directory.step_path(index)))
