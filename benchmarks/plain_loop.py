"""The yardstick: a plain training loop of the same network on the same images. Nothing of barm but the network.

Cross-entropy, SGD with a polynomial rate, random scale, crop, flip; mIoU at native size over the classes in the masks.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from PIL import Image
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, RandomSampler
from torchvision import tv_tensors
from torchvision.transforms import v2

from barm.labels import TaskPlan
from barm.methods import METHODS
from barm.models.segmenter import NetworkConfig

IGNORE = 255


def rescaled(*both: tv_tensors.TVTensor) -> tuple[torch.Tensor, ...]:
    factor = 0.5 + 1.5 * float(torch.rand(()))
    return tuple(v2.functional.resize(one, [round(side * factor) for side in one.shape[-2:]]) for one in both)


class Images(Dataset):
    def __init__(self, root: Path, split: str, transform: v2.Transform) -> None:
        listed, place = root / f"{split}.txt", "" if (root / f"{split}.txt").exists() else split
        found = {f.stem: f for f in (root / "images" / place).iterdir()}
        masks = {f.stem: f for f in (root / "masks" / place).iterdir()}
        names = listed.read_text("utf-8").split() if not place else sorted(found)
        self.pairs, self.transform = [(found[n], masks[n]) for n in names], transform

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        image, mask = (Image.open(path) for path in self.pairs[index])
        pixels = v2.functional.pil_to_tensor(image.convert("RGB")), v2.functional.pil_to_tensor(mask)[0]
        return self.transform(tv_tensors.Image(pixels[0]), tv_tensors.Mask(pixels[1]))


@torch.no_grad()
def mean_iou(network: torch.nn.Module, data: Images, classes: int) -> float:
    counts = torch.zeros(classes * classes)
    for image, mask in (data[i] for i in range(len(data))):
        logits = F.interpolate(network(image[None]).logits.float(), mask.shape[-2:], mode="bilinear")
        pairs = (mask.long() * classes + logits.argmax(1)[0])[mask != IGNORE]
        counts += torch.bincount(pairs, minlength=classes * classes)
    square = counts.view(classes, classes)
    hit, shown = square.diag(), square.sum(1)
    return float((hit / (shown + square.sum(0) - hit))[shown > 0].mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--updates", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--crop", type=int, default=273, help="273 holds 360x270")
    parser.add_argument("--flip", type=float, default=0.5)
    parser.add_argument("--rates", type=float, nargs=2, default=(5e-2, 2e-2), help="of the head and of the backbone")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    torch.manual_seed(given.seed)
    cropped = v2.RandomCrop(given.crop, fill={tv_tensors.Image: 0, tv_tensors.Mask: IGNORE}, pad_if_needed=True)
    train = Images(given.data, "train", v2.Compose([rescaled, cropped, v2.RandomHorizontalFlip(given.flip)]))
    classes = 1 + len((given.data / "classes.txt").read_text("utf-8").split("\n")[:-1])  # background has no line
    pretrained = {"pretrained": bool(given.weights), "weights": given.weights}
    config = NetworkConfig(backbone="tf_efficientnet_lite0", decoder="auto", **pretrained)
    plan = TaskPlan.parse("offline", classes - 1)
    network = METHODS["finetune"](name="finetune").build(plan[0], config).build_model().train()
    parts = zip((network.classifier, network.backbone), given.rates, strict=True)
    groups = [{"params": part.parameters(), "lr": rate} for part, rate in parts]
    optimizer = torch.optim.SGD(groups, momentum=0.9, nesterov=True, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, given.updates, power=0.9)
    sampler = RandomSampler(train, replacement=True, num_samples=given.updates * given.batch)
    began = time.monotonic()
    for image, mask in DataLoader(train, given.batch, sampler=sampler, num_workers=1):
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(image).logits
        wide = F.interpolate(logits.float(), mask.shape[-2:], mode="bilinear")
        F.cross_entropy(wide, mask.long(), ignore_index=IGNORE).backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    seconds = (time.monotonic() - began) / given.updates
    score = 100 * mean_iou(network.eval(), Images(given.data, "val", v2.Identity()), classes)
    print(f"{given.updates} updates, seed {given.seed}: mIoU {score:.1f}, {seconds:.3f} s per update")


if __name__ == "__main__":
    main()
