"""Train a network of segmentation_models_pytorch in plain PyTorch, as a model that is in use somewhere may have been.

python examples/train_smp.py DATA OUT [--epochs 30] [--encoder-weights FILE]

DATA is a folder of barm: images/, masks/, classes.txt, train.txt, val.txt. OUT is what `save_pretrained` writes.
Nothing of barm is used here.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import segmentation_models_pytorch as smp
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

MEAN = STD = 127.5  # of the encoder's weights, for values in 0..255
CROP, BATCH, RATE = 160, 8, 1e-3
DECODER = (96, 64, 32, 24, 16)  # channels: narrow, for a processor
Pair = tuple[Tensor, Tensor]


def read(data: Path, split: str) -> list[Pair]:
    """Images ``(3, H, W)`` and masks ``(H, W)`` of a split, uint8."""
    pairs = []
    for name in (data / f"{split}.txt").read_text().split():
        image = next((data / "images").glob(f"{name}.*"))
        pixels = np.array(Image.open(image).convert("RGB")).transpose(2, 0, 1)
        pairs.append((torch.from_numpy(pixels), torch.from_numpy(np.array(Image.open(data / "masks" / f"{name}.png")))))
    return pairs


def augmented(image: Tensor, mask: Tensor, rng: np.random.Generator) -> Pair:
    """Scale and crop a pair at random; there is no flip, since classes tell left from right."""
    scale = rng.uniform(0.5, 1.25)
    size = [max(CROP, round(side * scale)) for side in mask.shape]
    image = F.interpolate(image[None].float(), size, mode="bilinear", align_corners=False)[0]
    mask = F.interpolate(mask[None, None].float(), size, mode="nearest")[0, 0]
    top, left = (int(rng.integers(side - CROP + 1)) for side in size)
    box = (..., slice(top, top + CROP), slice(left, left + CROP))
    return (image[box] - MEAN) / STD, mask[box].long()


def encoder_state(path: Path, names: list[str]) -> dict[str, Tensor]:
    """An ImageNet state dict whose tensors are in the order of the encoder's, under the encoder's names."""
    counters = "num_batches_tracked"
    tensors = [t for k, t in torch.load(path, weights_only=True).items() if not k.endswith(counters)]
    return {name: t.contiguous() for name, t in zip([n for n in names if not n.endswith(counters)], tensors)}  # noqa: B905


def main() -> None:
    """Train and save."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--encoder", default="tu-tf_efficientnet_lite0")
    parser.add_argument("--encoder-weights", type=Path)
    given = parser.parse_args()
    torch.manual_seed(0)
    rng, began = np.random.default_rng(0), time.monotonic()
    lines = (given.data / "classes.txt").read_text("utf-8").splitlines()
    classes = [line.rpartition(": ")[2] for line in lines if line.strip()]  # "1: door", or "door" alone
    model = smp.Unet(given.encoder, encoder_weights=None, decoder_channels=DECODER, classes=1 + len(classes))
    if given.encoder_weights is not None:
        own = model.encoder.state_dict()
        own.update(encoder_state(given.encoder_weights, list(own)))
        model.encoder.load_state_dict(own)
    model = model.to(memory_format=torch.channels_last)
    pairs = read(given.data, "train")
    total = given.epochs * (len(pairs) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total)
    model.train()
    for epoch in range(given.epochs):
        order, losses = rng.permutation(len(pairs)), []
        for start in range(0, len(pairs) - BATCH + 1, BATCH):
            batch = [augmented(*pairs[i], rng) for i in order[start : start + BATCH]]
            image, mask = (torch.stack(parts) for parts in zip(*batch, strict=True))
            loss = F.cross_entropy(model(image), mask, ignore_index=255)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        print(f"epoch {epoch + 1}: loss {np.mean(losses):.3f}, {time.monotonic() - began:.0f} s", flush=True)
    model.save_pretrained(given.out)
    (given.out / "classes.txt").write_text("\n".join(["background", *classes]) + "\n", "utf-8")


if __name__ == "__main__":
    main()
