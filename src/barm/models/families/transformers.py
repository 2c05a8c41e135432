"""Semantic segmentation networks of transformers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

CLASSES = ("SegformerForSemanticSegmentation", "UperNetForSemanticSegmentation")


def build(architecture: Mapping[str, Any]) -> nn.Module:
    """Build the network of a ``config.json``, without its auxiliary head."""
    import transformers

    module: nn.Module = getattr(transformers, architecture["architectures"][0])(configuration(architecture))
    return module


def configuration(architecture: Mapping[str, Any]) -> Any:
    """The library's own configuration for the content of a ``config.json``."""
    import transformers

    given = {**architecture, "use_pretrained_backbone": False, "use_auxiliary_head": False}
    return transformers.AutoConfig.for_model(**given)
