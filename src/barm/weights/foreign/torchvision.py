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
from barm.models.families.torchvision import JOINED, LOW, joined
from barm.models.segmenter import check_names
from barm.weights.foreign.model import ForeignModel

LAST, AUXILIARY = "classifier.4", "aux_classifier."


def name_of(state: Mapping[str, Tensor]) -> str | None:
    """Name of the network that has these tensors, or None."""
    if f"{LOW}.weight" in state:
        return "lraspp_mobilenet_v3_large"
    if f"{LAST}.weight" not in state:
        return None
    atrous = "classifier.0.project.0.weight" in state
    if any(name.startswith("backbone.layer3.") for name in state):
        blocks = len({name.split(".")[2] for name in state if name.startswith("backbone.layer3.")})
        return {6: "{}_resnet50", 23: "{}_resnet101"}.get(blocks, "").format("deeplabv3" if atrous else "fcn") or None
    return "deeplabv3_mobilenet_v3_large" if atrous else None


def read(state: Mapping[str, Tensor], path: Path) -> ForeignModel:
    """Read a state dict.

    Args:
        state: its tensors.
        path: the file, for error messages.

    Raises:
        UserError: if it is none of torchvision's segmentation networks, or lacks tensors.
    """
    name = name_of(state)
    if name is None:
        raise UserError(f"{path} is no segmentation network of torchvision: expected one of fcn, deeplabv3, lraspp")
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
