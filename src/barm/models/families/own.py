"""Networks of the user's own, which Python code registers under a name."""

from __future__ import annotations

import copy
import importlib
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from barm.errors import UserError
from barm.models.families.logits import logits_of

VARIABLE = "BARM_NETWORKS"  # modules that register networks, separated by commas
_factories: dict[str, Callable[[], nn.Module]] = {}
_checked: set[tuple[Any, ...]] = set()


def register_network(name: str, factory: Callable[[], nn.Module]) -> None:
    """Say how the network is built that runs know by a name.

    A run's files hold tensors and names, and no code. So a process that loads a network of the user's own class has to
    register it: by this call, or in a module that the environment variable ``BARM_NETWORKS`` names.

    Args:
        name: as it was given to `barm.adopt`.
        factory: builds the network, with any weights.

    Raises:
        UserError: if it is no function or class.
    """
    if not callable(factory) or isinstance(factory, nn.Module):
        raise UserError(
            f"the factory of '{name}' is a {type(factory).__name__}: expected a function or class that builds it"
        )
    _factories[name] = factory
    _checked.clear()


def hold(name: str, module: nn.Module, size: Sequence[int]) -> dict[str, Any]:
    """Register a network for this process alone, and return what `build` needs to find it again.

    Args:
        name: of the network.
        module: the network, which nobody changes afterwards.
        size: height and width of an image that it takes.

    Raises:
        UserError: if another network has the name.
    """
    marks = fingerprint(module, size)
    if not np.array_equal(fingerprint(module, size), marks, equal_nan=True):
        raise UserError(f"'{name}' gives other scores for the same image each time: expected a network without chance")
    if name in _factories and not _alike(fingerprint(_made(name), size), marks):
        raise UserError(f"another network is registered as '{name}': give this one a name of its own (name=...)")
    _factories.setdefault(name, lambda: copy.deepcopy(module))
    return {"name": name, "size": list(size), "fingerprint": marks}


def release(name: str) -> None:
    """Forget a network."""
    _factories.pop(name, None)


def is_held(name: str) -> bool:
    """Whether a network is registered under a name."""
    return name in _factories


def build(architecture: Mapping[str, Any]) -> nn.Module:
    """Build the network that is registered under `name`.

    Raises:
        UserError: if there is none, or another one: with other tensors, or other scores for the same tensors.
    """
    name = architecture["name"]
    if name not in _factories:
        _import_registered()
    if name not in _factories:
        raise UserError(
            f"this run's network is '{name}', a class of your own: call barm.register_network('{name}', FACTORY), or "
            f"name the module that does in the environment variable {VARIABLE}"
        )
    marks = architecture.get("fingerprint")
    if marks and (name, *marks) not in _checked:
        with torch.device("cpu"):
            made = _made(name)
            try:
                found = fingerprint(made, architecture["size"])
            except Exception as error:  # whatever the user's code raises
                told = " ".join(str(error).split())[:160] or type(error).__name__
                raise UserError(f"the network that is registered as '{name}' takes no image: {told}") from error
        if not _alike(found, marks):
            raise UserError(
                f"the network that is registered as '{name}' is not the one that this run was made from: it gives "
                "other scores for the same weights; register that one"
            )
        _checked.add((name, *marks))
    return _made(name).to(torch.get_default_device())


@torch.no_grad()
def fingerprint(module: nn.Module, size: Sequence[int]) -> list[float]:
    """Mean and deviation of a network's logits for an image of noise, with fixed tensors in place of its own.

    Networks of one form have the same, whatever was trained; one of another form has another, up to small differences.
    """
    probe, generator = copy.deepcopy(module).float().cpu().eval(), torch.Generator().manual_seed(0)
    for tensor in probe.state_dict().values():
        if tensor.is_floating_point() and tensor.dim() > 1:
            values = torch.randn(tensor.shape, generator=generator)
            tensor.copy_(values / max(1, tensor[0].numel()) ** 0.5)
        elif tensor.is_floating_point():
            tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
    image = torch.randn(1, 3, *size, generator=generator)
    logits = logits_of(probe(image)).double()
    return [float(logits.shape[1]), *(float(f"{float(value):.6g}") for value in (logits.mean(), logits.std()))]


def _alike(one: Sequence[float], other: Sequence[float]) -> bool:
    return bool(np.allclose(one, other, rtol=1e-3, atol=1e-4, equal_nan=True))


def _made(name: str) -> nn.Module:
    """Build the network of a name; it costs a run no random number."""
    try:
        with torch.random.fork_rng(devices=[]):
            made = _factories[name]()
    except Exception as error:  # whatever the user's code raises
        told = " ".join(str(error).split())[:160] or type(error).__name__
        raise UserError(f"the factory of '{name}' (barm.register_network) does not build a network: {told}") from error
    if not isinstance(made, nn.Module):
        raise UserError(f"the factory of '{name}' returns a {type(made).__name__}: expected the network, an nn.Module")
    return made


def _import_registered() -> None:
    for module in filter(None, os.environ.get(VARIABLE, "").split(",")):
        try:
            importlib.import_module(module.strip())
        except Exception as error:  # whatever the user's code raises
            told = " ".join(str(error).split())[:160] or type(error).__name__
            raise UserError(f"{VARIABLE} names '{module.strip()}', which cannot be imported ({told})") from error
