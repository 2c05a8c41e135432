"""Semantic segmentation networks of transformers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

LEFT_OUT = ("attn_implementation", "_attn_implementation", "experts_implementation", "auto_map", "_name_or_path")
CLASSES = ("SegformerForSemanticSegmentation", "UperNetForSemanticSegmentation")


def build(architecture: Mapping[str, Any]) -> nn.Module:
    """Build the network of a ``config.json``, without its auxiliary head."""
    import transformers

    module: nn.Module = getattr(transformers, architecture["architectures"][0])(configuration(architecture))
    return module


def configuration(architecture: Mapping[str, Any]) -> Any:
    """The library's own configuration for the content of a ``config.json``."""
    import transformers

    given = {**plain(architecture), "use_pretrained_backbone": False, "use_auxiliary_head": False}
    return transformers.AutoConfig.for_model(**given)


def plain(value: Any) -> Any:
    """A configuration without what names code or places: kernels of a hub, a folder of the machine that wrote it."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items() if key not in LEFT_OUT}
    return [plain(item) for item in value] if isinstance(value, list) else value
