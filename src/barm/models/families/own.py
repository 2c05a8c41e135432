"""Networks of the user's own, which Python code registers under a name."""

from __future__ import annotations

import copy
import importlib
import os
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from barm.errors import UserError

VARIABLE = "BARM_NETWORKS"  # modules that register networks, separated by commas
_factories: dict[str, Callable[[], nn.Module]] = {}


def register_network(name: str, factory: Callable[[], nn.Module]) -> None:
    """Say how the network is built that runs know by a name.

    A run's files hold tensors and names, and no code. So a process that loads a network of the user's own class has to
    register it: by this call, or in a module that the environment variable ``BARM_NETWORKS`` names.

    Args:
        name: as it was given to `barm.adopt`.
        factory: builds the network, with any weights.
    """
    _factories[name] = factory


def hold(name: str, module: nn.Module) -> None:
    """Register a copy of a network, for this process alone."""
    template = copy.deepcopy(module)
    register_network(name, lambda: copy.deepcopy(template))


def build(architecture: Mapping[str, Any]) -> nn.Module:
    """Build the network that is registered under `name`."""
    name = architecture["name"]
    if name not in _factories:
        _import_registered()
    if name not in _factories:
        raise UserError(
            f"this run's network is '{name}', a class of your own: call barm.register_network('{name}', FACTORY), or "
            f"name the module that does in the environment variable {VARIABLE}"
        )
    return _factories[name]().to(torch.get_default_device())


def _import_registered() -> None:
    for module in filter(None, os.environ.get(VARIABLE, "").split(",")):
        try:
            importlib.import_module(module.strip())
        except ImportError as error:
            raise UserError(f"{VARIABLE} names '{module.strip()}', which cannot be imported ({error})") from error
