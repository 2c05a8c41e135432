"""Check networks for infinity and NaN before they are stored, handed on or measured."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from barm.errors import UserError
from barm.words import count, verb


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of the floating point tensors that hold infinity or NaN. The device is waited for once.

    >>> not_finite({"a": torch.tensor([1.0, float("nan")]), "b": torch.ones(2), "c": torch.tensor(3)})
    ['a']
    """
    asked = {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()}
    if not asked:
        return []
    sound = torch.stack([tensor.isfinite().all() for tensor in asked.values()]).tolist()
    return [name for name, fine in zip(asked, sound, strict=True) if not fine]


def check_finite(tensors: Mapping[str, Tensor], what: str) -> None:
    """Refuse a network that holds infinity or NaN.

    Args:
        tensors: by name.
        what: name of the network in the message.

    Raises:
        UserError: naming the first such tensor, and how many there are.
    """
    found = not_finite(tensors)
    if found:
        raise UserError(
            f"{what} is of no use: {len(found)} of its {count(len(tensors), 'tensors')} {verb(len(found), 'hold')} "
            f"infinity or no number, first '{found[0]}'; its training diverged: train it anew with lower learning rates"
        )
