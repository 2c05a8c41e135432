"""What the backward pass of depthwise convolutions costs on a processor: torch's own and ours, in turn.

python benchmarks/depthwise.py                # layers as in EfficientNets and others, and whole updates, one thread
python benchmarks/depthwise.py --rounds 2 --crop 65 --backbones mobilenetv3_small_050
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from unittest.mock import patch

import torch
from torch import Tensor, nn

from barm.bench.cases import Setting, our_update
from barm.engine.memory_use import keep_freed_memory
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
TYPES = {"bf16-mixed": torch.bfloat16, "32-true": torch.float32}
Work = Callable[[], object]


def works_of(name: str, dtype: torch.dtype) -> list[Work]:
    """Forward pass of a layer for 8 images, torch's backward pass, ours."""
    channels, side, kernel, dilation, stride = LAYERS[name]
    padding = dilation * (kernel // 2) if stride == 1 else 0
    image = torch.randn(8, channels, side, side, dtype=dtype).contiguous(memory_format=torch.channels_last)
    image.requires_grad_()

    def passes(fast: bool) -> tuple[Work, Work]:
        layer = nn.Conv2d(channels, channels, kernel, stride, padding, dilation, channels, bias=False)
        layer = layer.to(memory_format=torch.channels_last)
        if fast:
            speed_up_depthwise(layer)

        def forward() -> Tensor:
            with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
                result: Tensor = layer(image)
            return result

        result = forward()
        pull = torch.randn_like(result)
        return forward, lambda: torch.autograd.grad(result, [image, layer.weight], pull, retain_graph=True)

    forward, own = passes(fast=False)
    return [forward, own, passes(fast=True)[1]]


@contextmanager
def torch_s_own() -> Iterator[None]:
    """Context in which networks keep torch's backward pass."""
    with patch("barm.engine.runtime.speed_up_depthwise", lambda network: None):
        yield


def milliseconds(works: list[Work], rounds: int) -> list[float]:
    """Median processor time of each work, in turn; the first round warms up."""
    spent: list[list[float]] = [[] for _ in works]
    for round_ in range(rounds + 1):
        for work, found in zip(works, spent, strict=True):
            began = time.process_time()
            work()
            if round_:
                found.append(1000 * (time.process_time() - began))
    return [median(found) for found in spent]


def main() -> None:
    """Time the layers and the updates, print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ["tf_efficientnet_lite0", "mobilenetv2_100", "convnext_atto"]
    parser.add_argument("--backbones", nargs="+", default=names)
    parser.add_argument("--crop", type=int, default=193)
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()  # as in training
    for precision, dtype in TYPES.items():
        for name in LAYERS:
            forward, own, ours = milliseconds(works_of(name, dtype), given.rounds)
            told = f"forward {forward:5.1f} ms · backward: torch {own:5.1f} ms, ours {ours:5.1f} ms"
            print(f"{precision:11}{name:18}{told} ({own / ours:.1f} x as fast)")
    plan = TaskPlan.parse("7-2", 11)
    for backbone in given.backbones:
        network = NetworkConfig(backbone=backbone, pretrained=False, decoder="auto")
        for precision in TYPES:
            for step in (0, 1):
                setting = Setting(network, plan[step], 8, given.crop, "cpu", precision)
                with torch_s_own():
                    before = our_update(setting)
                own, ours = milliseconds([before, our_update(setting)], given.rounds)
                told = f"torch {own:5.0f} ms, ours {ours:5.0f} ms ({ours / own:.2f} of the time)"
                print(f"{precision:11}{backbone}, update of step {step}: {told}")


if __name__ == "__main__":
    main()
