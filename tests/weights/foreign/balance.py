"""Runs of networks with random weights whose label maps hold several classes, so that equal maps prove something."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from barm.engine.checkpoint.directory import RunDirectory
from barm.engine.checkpoint.network import load_step
from editing import unchecked


@torch.no_grad()
def balance(run: Path, image: np.ndarray) -> None:
    """Give every logit of a run's last step the mean 0 and the deviation 2 over an image, in the run's file.

    Args:
        run: of a method with one growing classifier.
        image: ``(H, W, 3)`` uint8.
    """
    directory = RunDirectory(run)
    step = directory.last_step()
    network, _ = load_step(directory, step)
    logits = network(torch.from_numpy(image).permute(2, 0, 1)[None]).logits.double()
    mean, factor = logits.mean((0, 2, 3)), 2 / logits.std((0, 2, 3))
    sizes = [len(head.bias) for head in network.classifier.head]
    for head, m, f in zip(network.classifier.head, mean.split(sizes), factor.split(sizes), strict=True):
        head.bias.copy_((head.bias - m) * f)
        head.weight.copy_(head.weight * f[:, None, None, None])
    file = directory.step_path(step) / "model.safetensors"
    file.unlink()  # steps that were taken over share it
    save_file({name: t.contiguous().clone() for name, t in network.state_dict().items()}, unchecked(file))


def noise(height: int, width: int) -> np.ndarray:
    """An image of noise in patches, ``(H, W, 3)`` uint8."""
    small = np.random.default_rng(0).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
    return np.ascontiguousarray(small.repeat(8, 0).repeat(8, 1)[:height, :width])
