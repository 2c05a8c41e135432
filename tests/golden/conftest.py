"""Weights by rule: the big networks behind the golden vectors are not stored but filled from their tensors' names."""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from barm.ops.upsampled import computed_by

DATA = Path(__file__).parent / "data"
sys.path.insert(0, str(Path(__file__).parent))


def tensor_by_rule(name: str, like: Tensor) -> Tensor:
    """The value of the tensor called `name`."""
    rng, shape = np.random.default_rng(zlib.crc32(name.encode())), tuple(like.shape)
    if name.endswith("num_batches_tracked"):
        return torch.zeros_like(like)
    if name.endswith("running_mean"):
        values = 0.1 * rng.standard_normal(shape)
    elif name.endswith("running_var"):
        values = rng.uniform(0.5, 1.5, shape)
    elif len(shape) >= 2:
        values = rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
    elif name.endswith("bn3.weight"):
        values = rng.uniform(0.1, 0.3, shape)
    elif name.endswith("weight"):
        values = rng.uniform(0.8, 1.2, shape)
    else:
        values = 0.1 * rng.standard_normal(shape)
    return torch.from_numpy(np.asarray(values, np.float32))


def fill_by_rule(module: nn.Module) -> None:
    """Fill every tensor of a network, in place."""
    module.load_state_dict({name: tensor_by_rule(name, value) for name, value in module.state_dict().items()})


@pytest.fixture(params=["plain", "strips"])
def both_ways(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every formula of the labels' size the plain way, and strip by strip."""
    with computed_by(request.param):
        yield request.param


@pytest.fixture
def fill() -> Callable[[nn.Module], None]:
    return fill_by_rule


@pytest.fixture
def golden() -> Callable[[str], dict[str, np.ndarray]]:
    """Arrays of a golden file by its path below ``data``."""

    def read(name: str) -> dict[str, np.ndarray]:
        with np.load(DATA / name, allow_pickle=False) as arrays:
            return {key: arrays[key] for key in arrays.files}

    return read
