"""What it saves to train less of the backbone: whole updates with all of it, none of it, and adapters, side by side."""

from __future__ import annotations

import argparse
from unittest import mock

from barm.bench import cases
from barm.bench.measure import Work, side_by_side
from barm.bench.run import processor, setting_of
from barm.engine.checkpoint.provenance import provenance
from barm.engine.config import StepRecipe

WAYS = ("trained", "frozen", "lora")


def update(setting: cases.Setting, way: str) -> Work:
    """A whole update of the setting's step with this much of the backbone."""
    usual = cases._recipe(setting)
    recipe = StepRecipe.model_validate({**usual.model_dump(), "backbone": way})
    with mock.patch("barm.bench.cases._recipe", return_value=recipe):
        return cases.our_update(setting)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="deeplabv3bga_resnet101")
    parser.add_argument("--step", type=int, default=1)
    parser.add_argument("--crop", type=int, default=513)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--device", default="auto")
    given = parser.parse_args()
    setting = setting_of(given.model, "15-1", 20, given.step, given.batch, given.crop, given.device, "auto")
    rt = setting.fast()
    made = provenance(rt)
    costs = side_by_side({way: update(setting, way) for way in WAYS}, rt.device, given.rounds)
    print(
        f"{processor(rt.device)}, {rt.precision}, torch {made['torch']}, commit {made.get('git', 'unknown')}\n"
        f"{given.model}, step {given.step} of 15-1, crop {given.crop}, batch {given.batch}, {given.rounds} rounds"
    )
    for way, cost in costs.items():
        memory = "" if cost.memory is None else f", {cost.memory / 2**20:.0f} MB"
        ratio = cost.median / costs["trained"].median
        print(f"{way:8} {cost.median:.4f} s ({cost.least:.4f} to {cost.most:.4f}), {ratio:.2f} x trained{memory}")


if __name__ == "__main__":
    main()
