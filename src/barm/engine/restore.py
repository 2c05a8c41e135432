"""A trained network from its description and its tensors, wherever they lay."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

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
        UserError: if the tensors are not those of this network.
    """
    step = Step(index, tuple(tuple(g) for g in about["groups"]))
    network = NetworkConfig.stored({**about["model"], "pretrained": False, "weights": None})
    method = METHODS[about["method"]["name"]].model_validate(about["method"]).build(step, network)
    model = method.build_model()
    check_names(model.state_dict(), dict(state), set(), what)
    model.load_state_dict(state)
    return model.eval(), method
