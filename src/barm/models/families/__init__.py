"""Networks of other libraries, built from a description without weights."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from barm.errors import UserError
from barm.models.families import own, smp, torchvision, transformers

BUILDERS: dict[str, Callable[[Mapping[str, Any]], nn.Module]] = {
    "smp": smp.build,
    "transformers": transformers.build,
    "torchvision": torchvision.build,
    "python": own.build,
}  # by the name of the library


def build(family: str, architecture: Mapping[str, Any]) -> nn.Module:
    """Build a network of another library with random weights.

    Args:
        family: a key of `BUILDERS`.
        architecture: what the library needs to know, in values that JSON can hold.

    Raises:
        UserError: if the library is not installed, or knows no such network.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return BUILDERS[family](architecture)
    except ImportError as error:
        raise UserError(f"this network needs {error.name}: pip install 'barm-seg[models]'") from error
    except UserError:
        raise
    except Exception as error:  # whatever a constructor of another library raises
        told = " ".join(str(error).split())[:160] or type(error).__name__
        raise UserError(
            f"{family} cannot build this network ({told}): its description is damaged, or of another release"
        ) from error
