"""A trained network from its description and its tensors, wherever they lay."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from torch import Tensor, nn

from barm.engine.finite import check_finite
from barm.errors import UserError
from barm.labels import Step
from barm.methods import METHODS, Method
from barm.models.network import NetworkConfig, check_names


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
        UserError: if the tensors are not those of this network, or hold anything but numbers.
    """
    step = Step(index, tuple(tuple(g) for g in about["groups"]))
    try:
        network = NetworkConfig.stored({**about["model"], "pretrained": False, "weights": None})
        method = METHODS[about["method"]["name"]].model_validate(about["method"]).build(step, network)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        told = f"{'.'.join(map(str, first['loc']))}: {first['msg']}, got {first['input']!r}"
        raise UserError(f"{what} has settings that are refused now ({told}): train it anew with others") from None
    model = method.build_model()
    check_names(model.state_dict(), dict(state), set(), what)
    check_finite(state, what)
    model.load_state_dict(state)
    return model.eval(), method
