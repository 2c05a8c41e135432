"""What the decoder costs: an update of step 0 and of step 1 of BARM with each decoder, in turn, in processor seconds.

python benchmarks/decoders.py                 # EfficientNet-Lite0, batch 8, crop 241, one thread
python benchmarks/decoders.py --rounds 2 --crop 65 --backbone test_resnet
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch

from barm.bench.cases import Setting, our_update
from barm.labels import TaskPlan
from barm.models.segmenter import NetworkConfig

DECODERS: dict[str, dict[str, Any]] = {
    "v3": {},
    "v3plus, separable (auto)": {"decoder": "v3plus", "separable": True},
    "v3plus": {"decoder": "v3plus"},
}


def main() -> None:
    """Time the updates and print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--crop", type=int, default=241)
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    torch.set_num_threads(1)
    plan = TaskPlan.parse("7-2", 11)
    works: dict[tuple[str, int], Callable[[], object]] = {}
    for name, options in DECODERS.items():
        network = NetworkConfig(backbone=given.backbone, pretrained=False, **options)
        for step in (0, 1):
            works[name, step] = our_update(Setting(network, plan[step], 8, given.crop, "cpu", "auto"))
    seconds: dict[tuple[str, int], list[float]] = {case: [] for case in works}
    for round_ in range(given.rounds + 1):  # the first warms up
        for case, work in works.items():
            began = time.process_time()
            work()
            if round_:
                seconds[case].append(time.process_time() - began)
    for name in DECODERS:
        spent = [median(seconds[name, step]) for step in (0, 1)]
        ratios = [s / median(seconds["v3", step]) for step, s in enumerate(spent)]
        told = " · ".join(f"step {i} {s:.2f} s ({r:.2f} x)" for i, (s, r) in enumerate(zip(spent, ratios, strict=True)))
        print(f"{name:26}{told}")


if __name__ == "__main__":
    main()
