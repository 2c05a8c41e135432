"""Code of a model card: how a pushed network is loaded and given an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from barm.models.adopted import AdoptedConfig, size_rule
from barm.models.segmenter import NetworkConfig
from barm.weights.foreign.transformers import PROCESSOR_KEY

LOADED = {
    "smp": ("import segmentation_models_pytorch as smp", "model = smp.from_pretrained({repo}).eval()"),
    "transformers": (
        "from transformers import AutoModelForSemanticSegmentation",
        "model = AutoModelForSemanticSegmentation.from_pretrained({repo}).eval()",
    ),
    "torchvision": (
        "from huggingface_hub import hf_hub_download\nfrom torchvision.models import segmentation",
        "model = segmentation.{network}(weights=None, weights_backbone=None, num_classes={outputs}).eval()\n"
        'model.load_state_dict(torch.load(hf_hub_download({repo}, "model.pth"), weights_only=True))',
    ),
}
LOGITS = {"smp": "model(pixels)", "transformers": "model(pixels).logits", "torchvision": 'model(pixels)["out"]'}


def original_code(config: NetworkConfig, repository: str, names: Sequence[str]) -> str:
    """Python that loads a network by its own library and labels a photograph, ``labels`` of ``(H, W)``.

    Args:
        config: of the network, one of another library.
        repository: ``owner/name``.
        names: of its outputs.
    """
    adopted = _adopted(config)
    imports, load = LOADED[adopted.family]
    loaded = load.format(repo=f'"{repository}"', network=adopted.description.get("name"), outputs=len(names))
    found = ["import numpy as np", "import torch", "from PIL import Image", "from torch.nn import functional as F"]
    found += imports.splitlines()
    lines = [
        *sorted(line for line in found if line.startswith("import")),
        *sorted((line for line in found if line.startswith("from")), key=str.lower),
        "",
        loaded,
        'image = np.array(Image.open("photo.jpg").convert("RGB"))',
        f"mean, std = torch.tensor({list(config.mean)}), torch.tensor({list(config.std)})",
        "pixels = ((torch.from_numpy(image) / 255 - mean) / std).permute(2, 0, 1)[None]",
        *_sized(adopted),
        "with torch.no_grad():",
        f"    logits = {LOGITS[adopted.family]}",
        'logits = F.interpolate(logits, image.shape[:2], mode="bilinear", align_corners=False)',
        "labels = logits[0].argmax(0)  # (H, W): positions among the outputs below",
    ]
    return "\n".join(lines)


def input_rows(config: NetworkConfig) -> list[list[str]]:
    """What images the network takes, as rows of a table: colours, values, mean, deviation, sizes."""
    rule = None if config.adopted is None else size_rule(config.adopted.divisor, config.adopted.least)
    sides = "any" if rule is None else f"multiples of {rule.divisor}" if rule.divisor > 1 else "any"
    least = "" if rule is None else f", at least {rule.least} pixels"
    return [
        ["colours", config.order.upper()],
        ["values", "0 to 1, before mean and deviation"],
        ["mean", _numbers(config.mean)],
        ["deviation", _numbers(config.std)],
        ["sides", f"{sides}{least}"],
    ]


def has_processor(config: NetworkConfig) -> bool:
    """Whether the original form has the image processor of transformers."""
    return config.adopted is not None and bool(config.adopted.description.get(PROCESSOR_KEY))


def _adopted(config: NetworkConfig) -> AdoptedConfig:
    assert config.adopted is not None
    return config.adopted


def _sized(adopted: AdoptedConfig) -> list[str]:
    """Lines that resize the image to the nearest size that the network takes."""
    rule = size_rule(adopted.divisor, adopted.least)
    if rule is None:
        return []
    nearest = f"max({rule.least}, (side + {rule.divisor // 2}) // {rule.divisor} * {rule.divisor})"
    return [
        f"size = [{nearest} for side in image.shape[:2]]",
        'pixels = F.interpolate(pixels, size, mode="bilinear", align_corners=False)',
    ]


def _numbers(values: Sequence[Any]) -> str:
    return ", ".join(f"{value:.6g}" for value in values)
