"""The logits in what another library's network returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from barm.errors import UserError


def logits_of(result: Any) -> Tensor:
    """The logits in what a network returns: a tensor, the first of several, or an entry ``out`` or ``logits``.

    Raises:
        UserError: for anything else.
    """
    if isinstance(result, Mapping):
        result = result.get("out", result.get("logits"))
    result = getattr(result, "logits", result)
    if isinstance(result, tuple | list) and result:
        result = result[0]
    if not isinstance(result, Tensor) or result.dim() != 4:
        raise UserError(
            f"the network returns a {type(result).__name__}: expected logits (N, C, h, w), a tuple that starts with "
            "them, or a dict or an object that has them as 'out' or 'logits'"
        )
    return result
