"""What the backward pass of depthwise convolutions costs on a processor: torch's own and ours, in turn.

python benchmarks/depthwise.py                # layers as in EfficientNet-Lite0, and whole updates with it, one thread
python benchmarks/depthwise.py --rounds 2 --crop 65 --backbone mobilenetv3_small_050
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from unittest.mock import patch

import torch
from torch import nn

from barm.bench.cases import Setting, our_update
from barm.labels import TaskPlan
from barm.models.depthwise import speed_up_depthwise
from barm.models.segmenter import NetworkConfig

LAYERS = {  # channels, side of the image, of the kernel, dilation, stride
    "3 x 3": (304, 49, 3, 1, 1),
    "3 x 3, stride 2": (96, 99, 3, 1, 2),
    "3 x 3, dilation 2": (1152, 13, 3, 2, 1),
    "3 x 3, dilation 6": (320, 13, 3, 6, 1),
    "5 x 5": (240, 25, 5, 1, 1),
    "5 x 5, stride 2": (144, 53, 5, 1, 2),
    "5 x 5, dilation 2": (1152, 13, 5, 2, 1),
    "7 x 7": (96, 48, 7, 1, 1),
}


def backward(layer: nn.Conv2d, side: int, precise: bool) -> Callable[[], object]:
    """One backward pass through a layer, for 8 images."""
    image = torch.randn(8, layer.in_channels, side, side).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16, enabled=not precise):
        image = (image if precise else image.bfloat16()).requires_grad_()
        result = layer(image)
    pull = torch.randn_like(result)
    return lambda: torch.autograd.grad(result, [image, layer.weight], pull, retain_graph=True)


def layer_of(name: str, fast: bool) -> tuple[nn.Conv2d, int]:
    """A layer of `LAYERS` and the side of its images."""
    channels, side, kernel, dilation, stride = LAYERS[name]
    padding = dilation * (kernel // 2) if stride == 1 else 0
    layer = nn.Conv2d(channels, channels, kernel, stride, padding, dilation, channels, bias=False)
    layer = layer.to(memory_format=torch.channels_last)
    if fast:
        speed_up_depthwise(layer)
    return layer, side


@contextmanager
def torch_s_own() -> Iterator[None]:
    """Context in which networks keep torch's backward pass."""
    with patch("barm.engine.runtime.speed_up_depthwise", lambda network: None):
        yield


def seconds(works: list[Callable[[], object]], rounds: int) -> list[float]:
    """Median processor seconds of each work, in turn; the first round warms up."""
    spent: list[list[float]] = [[] for _ in works]
    for round_ in range(rounds + 1):
        for work, found in zip(works, spent, strict=True):
            began = time.process_time()
            work()
            if round_:
                found.append(time.process_time() - began)
    return [median(found) for found in spent]


def main() -> None:
    """Time the layers and the updates, print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--crop", type=int, default=193)
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    torch.set_num_threads(1)
    for precise in (False, True):
        for name in LAYERS:
            works = [backward(*layer_of(name, fast), precise) for fast in (False, True)]
            own, ours = (1000 * spent for spent in seconds(works, given.rounds))
            kind = "float32" if precise else "bfloat16"
            print(f"{kind:10}{name:20}torch {own:6.1f} ms · ours {ours:6.1f} ms ({own / ours:.1f} x as fast)")
    plan = TaskPlan.parse("7-2", 11)
    network = NetworkConfig(backbone=given.backbone, pretrained=False, decoder="auto")
    for step in (0, 1):
        setting = Setting(network, plan[step], 8, given.crop, "cpu", "auto")
        with torch_s_own():
            before = our_update(setting)
        own, ours = seconds([before, our_update(setting)], given.rounds)
        print(f"update of step {step}: torch {own:.2f} s · ours {ours:.2f} s ({own / ours:.2f} x as fast)")


if __name__ == "__main__":
    main()
