"""Folders as other libraries write them, of a description and the last tensors alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

SMP_HEAD, TRANSFORMERS_HEAD = "segmentation_head.0.weight", "decode_head.classifier.weight"


def described(folder: Path, config: Any, outputs: int = 3) -> Path:
    """A folder with a description, and the last tensors of a network."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config), "utf-8")
    save_file({n: torch.zeros(outputs, 1) for n in (SMP_HEAD, TRANSFORMERS_HEAD)}, folder / "model.safetensors")
    return folder


UNET = {"_model_class": "Unet", "encoder_name": "resnet34", "classes": 3, "activation": None}
SEGFORMER_FOLDER = {
    "architectures": ["SegformerForSemanticSegmentation"],
    "model_type": "segformer",
    "id2label": {"0": "a", "1": "b", "2": "c"},
}
UPERNET_FOLDER = {"architectures": ["UperNetForSemanticSegmentation"], "model_type": "upernet", "num_labels": 3}
