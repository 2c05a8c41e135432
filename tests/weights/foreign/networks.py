"""Small networks of other libraries with random weights, as their own libraries write them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import segmentation_models_pytorch as smp
import torch
import transformers
from torch import nn
from torchvision.models import segmentation
from transformers.utils import logging

KINDS = {
    "torchvision-lraspp": "lraspp_mobilenet_v3_large",
    "torchvision-fcn": "fcn_resnet50",
    "torchvision-deeplab": "deeplabv3_resnet50",
    "torchvision-deeplab-mobilenet": "deeplabv3_mobilenet_v3_large",
}
NAMES = ("background", "sky", "road", "car")
logging.disable_progress_bar()


def shaken(module: nn.Module) -> nn.Module:
    """Give batch norm statistics as after a training, and a classifier that prefers no class."""
    generator = torch.Generator().manual_seed(0)
    for child in module.modules():
        if isinstance(child, nn.BatchNorm2d):
            child.running_mean.normal_(0, 0.1, generator=generator)
            child.running_var.uniform_(0.5, 1.5, generator=generator)
    return module.eval()


def of_smp(name: str, encoder: str = "resnet18", **options: Any) -> Callable[[Path], Path]:
    """A function that writes a folder of segmentation_models_pytorch."""

    def write(folder: Path) -> Path:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = getattr(smp, name)(encoder, encoder_weights=None, **{"classes": len(NAMES), **options})
        shaken(module).save_pretrained(folder)
        (folder / "classes.txt").write_text("\n".join(NAMES))
        return folder

    return write


def segformer(folder: Path, **options: Any) -> Path:
    """Write a folder of transformers with SegFormer."""
    labels = {"id2label": dict(enumerate(NAMES))}
    sizes = {"depths": [1] * 4, "hidden_sizes": [16, 32, 40, 64], "decoder_hidden_size": 32}
    config = transformers.SegformerConfig(**{**labels, **sizes, **options})
    shaken(transformers.SegformerForSemanticSegmentation(config)).save_pretrained(folder)
    processor = transformers.SegformerImageProcessor(image_mean=[0.5, 0.4, 0.3], image_std=[0.2, 0.3, 0.4])
    processor.save_pretrained(folder)
    return folder


def upernet(folder: Path) -> Path:
    """Write a folder of transformers with UperNet on ConvNeXt."""
    stages = [f"stage{i}" for i in range(1, 5)]
    body = transformers.ConvNextConfig(hidden_sizes=[16, 24, 32, 48], depths=[1] * 4, out_features=stages)
    config = transformers.UperNetConfig(
        backbone_config=body, hidden_size=32, auxiliary_channels=16, id2label=dict(enumerate(NAMES))
    )
    shaken(transformers.UperNetForSemanticSegmentation(config)).save_pretrained(folder)
    return folder


def torchvision_network(name: str, outputs: int, *, auxiliary: bool = False) -> nn.Module:
    """One of torchvision's networks with random weights."""
    more = {} if name.startswith("lraspp") else {"aux_loss": auxiliary}
    return getattr(segmentation, name)(weights=None, weights_backbone=None, num_classes=outputs, **more)


def of_torchvision(name: str) -> Callable[[Path], Path]:
    """A function that writes a state dict of torchvision, with the auxiliary classifier where there is one."""

    def write(folder: Path) -> Path:
        module = torchvision_network(name, len(NAMES), auxiliary=True)
        file = folder.with_suffix(".pth")
        torch.save(shaken(module).state_dict(), file)
        return file

    return write


QUICK: dict[str, Callable[[Path], Path]] = {  # one of every form that a classifier and its surroundings have
    "smp-unet": of_smp("Unet", decoder_channels=(32, 16, 16, 16, 8)),
    "smp-fpn": of_smp("FPN", decoder_pyramid_channels=32, decoder_segmentation_channels=32),
    "transformers-segformer": segformer,
    "transformers-upernet": upernet,
    "torchvision-lraspp": of_torchvision(KINDS["torchvision-lraspp"]),
}
OTHERS: dict[str, Callable[[Path], Path]] = {
    "smp-deeplabv3plus": of_smp("DeepLabV3Plus"),
    "smp-segformer": of_smp("Segformer", "mit_b0"),
    "smp-upernet": of_smp("UPerNet"),
    "smp-dpt": of_smp("DPT", "tu-vit_tiny_patch16_224"),
    "torchvision-fcn": of_torchvision(KINDS["torchvision-fcn"]),
    "torchvision-deeplab": of_torchvision(KINDS["torchvision-deeplab"]),
    "torchvision-deeplab-mobilenet": of_torchvision(KINDS["torchvision-deeplab-mobilenet"]),
}
EVERY = {**QUICK, **OTHERS}


class Own(nn.Module):
    """A network of somebody's own: strides, a head, its own enlargement with corners aligned, a dict as its result."""

    def __init__(self, classes: int = len(NAMES)) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3, 2, 1))
        self.head = nn.Sequential(nn.ReLU(), nn.Conv2d(12, classes, 1))

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.head(self.body(image))
        size = image.shape[2:]
        return {"out": nn.functional.interpolate(logits, size, mode="bilinear", align_corners=True)}
