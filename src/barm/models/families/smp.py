"""Networks of segmentation_models_pytorch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from barm.errors import UserError

CLASSES = frozenset(
    {"Unet", "UnetPlusPlus", "MAnet", "Linknet", "FPN", "PSPNet", "PAN", "DeepLabV3", "DeepLabV3Plus"}
    | {"UPerNet", "Segformer", "DPT"}
)  # a file may name these alone
FIXED_SIZE = frozenset({"DPT"})  # networks whose encoder takes one size unless it is told otherwise


def build(architecture: Mapping[str, Any]) -> nn.Module:
    """Build the class that `_model_class` names with the other entries, which are those of its ``config.json``.

    An activation after the last convolution and a classifier of whole images are left out. Encoders for one size of
    image resample their position embeddings for any other.
    """
    name = architecture["_model_class"]
    if name not in CLASSES:
        raise UserError(
            f"'{name}' is no network of segmentation_models_pytorch: expected one of {', '.join(sorted(CLASSES))}"
        )
    import segmentation_models_pytorch as smp

    options = {key: value for key, value in architecture.items() if not key.startswith("_")}
    more = {"dynamic_img_size": True} if name in FIXED_SIZE else {}
    module: nn.Module = getattr(smp, name)(
        **{**more, **options, "encoder_weights": None, "activation": None, "aux_params": None}
    )
    return module
