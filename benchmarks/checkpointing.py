"""What gradient checkpointing saves and costs: bytes kept of an image, and whole updates with and without, in turn."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

import torch

from barm.bench.cases import OURS, Setting, our_update
from barm.bench.facts import kept_of_an_image
from barm.bench.measure import side_by_side
from barm.bench.run import processor, setting_of

AGAIN = "checkpointed"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kept-model", default="deeplabv3bga_resnet101")
    parser.add_argument("--kept-crop", type=int, default=513)
    parser.add_argument("--model", default="deeplabv3bga_resnet50")
    parser.add_argument("--crop", type=int, default=257)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)

    def setting(model: str, step: int, crop: int) -> Setting:
        return setting_of(model, "15-1", 20, step, given.batch, crop, given.device, given.precision)

    show_kept(setting(given.kept_model, 1, given.kept_crop), given.kept_model)
    for step in (0, 1):
        print(f"{given.model}, {given.crop} pixels, batch {given.batch}, step {step}, {given.rounds} rounds")
        show_times(setting(given.model, step, given.crop), given.rounds)


def show_kept(setting: Setting, name: str) -> None:
    precisions: tuple[Any, ...] = ("32-true", "bf16-mixed")
    for precision in precisions:
        for fact, kept in kept_of_an_image(replace(setting, precision=precision)).items():
            print(f"{name}, {setting.crop} pixels, {precision}, {fact}: {kept}")


def show_times(setting: Setting, rounds: int) -> None:
    works = {OURS: our_update(setting), AGAIN: our_update(setting, gradient_checkpointing=True)}
    rt = setting.fast()
    costs = side_by_side(works, rt.device, rounds)
    print(f"{processor(rt.device)}, {rt.precision}")
    busy = costs[OURS].processor or 0.0
    for name, cost in costs.items():
        memory = "" if cost.memory is None else f", {cost.memory / 2**20:.0f} MB"
        seconds = f"{cost.median:.3f} s ({cost.least:.3f} to {cost.most:.3f}), {cost.median / costs[OURS].median:.2f} x"
        own = cost.processor or 0.0
        print(f"{name:12} {seconds}; of the processor {own:.3f} s, {own / max(busy, 1e-9):.2f} x{memory}")


if __name__ == "__main__":
    main()
