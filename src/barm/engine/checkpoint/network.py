"""A trained network from its description and its tensors, wherever they lay."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from torch import Tensor, nn

from barm.engine.capacity import skeleton
from barm.engine.finite import check_finite
from barm.errors import UserError
from barm.labels import Step
from barm.methods import METHODS, Method
from barm.models.segmenter import NetworkConfig, check_names


def rebuild(
    about: Mapping[str, Any], index: int, state: Mapping[str, Tensor], what: str
) -> tuple[nn.Module, Method[Any]]:
    """The network of a step in evaluation mode, on the CPU, with its method.

    Args:
        about: as in ``method.json``.
        index: of the step.
        state: the network's tensors.
        what: how to call them in a message.

    Raises:
        UserError: if there is no such network or method, the tensors are not those of this
            network, or they hold anything but numbers.
    """
    step = Step(index, tuple(tuple(g) for g in about["groups"]))
    name = about["method"].get("name")
    if name not in METHODS:
        raise UserError(f"{what} was trained by '{name}', which is unknown; known: {', '.join(METHODS)}")
    try:
        network = NetworkConfig.stored({**about["model"], "pretrained": False, "weights": None})
        method = METHODS[name].model_validate(about["method"]).build(step, network)
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
