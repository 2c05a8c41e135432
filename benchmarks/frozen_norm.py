"""What it saves to let convolutions compute the frozen batch norm: whole updates with and without it, side by side."""

from __future__ import annotations

import argparse
from unittest import mock

from barm.bench.cases import BARE, OURS, PLAIN, our_update, update_work
from barm.bench.measure import side_by_side
from barm.bench.run import processor, setting_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="deeplabv3bga_resnet101")
    parser.add_argument("--crop", type=int, default=513)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--device", default="auto")
    given = parser.parse_args()
    setting = setting_of(given.model, "15-1", 20, 1, given.batch, given.crop, given.device, "auto")
    works = update_work(setting)
    with mock.patch("barm.engine.runtime.take_in_frozen_norms", return_value=None):
        apart = our_update(setting)
    ordered = {OURS: works[OURS], "batch norm by itself": apart, BARE: works[BARE], PLAIN: works[PLAIN]}
    device = setting.fast().device
    costs = side_by_side(ordered, device, given.rounds)
    print(f"{processor(device)}, {setting.fast().precision}, batch {given.batch}, {given.rounds} rounds")
    for name, cost in costs.items():
        memory = "" if cost.memory is None else f", {cost.memory / 2**20:.0f} MB"
        ratio = cost.median / costs[OURS].median
        print(f"{name:22} {cost.median:.4f} s ({cost.least:.4f} to {cost.most:.4f}), {ratio:.2f} x ours{memory}")


if __name__ == "__main__":
    main()
