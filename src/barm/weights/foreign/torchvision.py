"""State dicts of torchvision's segmentation networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torchvision.models import segmentation

from barm.data.palette import published
from barm.errors import UserError
from barm.models.families import build
from barm.models.families.torchvision import JOINED, NAMES, joined
from barm.models.segmenter import check_names
from barm.weights.foreign.model import ForeignModel
from barm.weights.kind import State
from barm.weights.networks import torchvision_name

LAST, AUXILIARY = "classifier.4", "aux_classifier."


def read(state: Mapping[str, Tensor], path: Path) -> ForeignModel:
    """Read a state dict.

    Args:
        state: its tensors.
        path: the file, for error messages.

    Raises:
        UserError: if it is none of torchvision's segmentation networks, or lacks tensors.
    """
    name = torchvision_name(State({key: tuple(tensor.shape) for key, tensor in state.items()}))
    if name not in NAMES:
        found = f" ({name})" if name else ""
        raise UserError(
            f"{path} is no segmentation network of torchvision that barm takes{found}: expected one of "
            + ", ".join(NAMES)
        )
    module = build("torchvision", {"name": name}).eval()
    given = joined({k: v for k, v in state.items() if not k.startswith(AUXILIARY)})
    last = JOINED if name.startswith("lraspp") else LAST
    outputs = given[f"{last}.weight"].shape[0]
    parent, _, own = last.rpartition(".")
    place = module.get_submodule(parent)
    before: Any = place.get_submodule(own)
    setattr(place, own, nn.Conv2d(before.in_channels, outputs, before.kernel_size))
    counters = {k for k in module.state_dict() if k.endswith("num_batches_tracked")}
    check_names(module.state_dict(), given, counters, str(path))
    module.load_state_dict({**module.state_dict(), **given})
    names = published("voc")[0] if outputs == len(published("voc")[0]) else None
    auxiliary = any(k.startswith(AUXILIARY) for k in state)
    return ForeignModel(
        f"torchvision {name}",
        "torchvision",
        module.eval(),
        {"name": name},
        last,
        names,
        "sigmoid" if outputs == 1 else "softmax",
        notes=("its auxiliary classifier is left out",) if auxiliary else (),
    )


def widened(architecture: Mapping[str, Any], names: Sequence[str]) -> tuple[nn.Module, dict[str, Any]]:
    """The library's own network for these outputs, with random weights, and its configuration."""
    name = architecture["name"]
    more = {} if name.startswith("lraspp") else {"aux_loss": False}
    module = getattr(segmentation, name)(weights=None, weights_backbone=None, num_classes=len(names), **more)
    return module, dict(architecture)
