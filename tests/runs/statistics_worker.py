"""Whole runs of methods that gather statistics, in one or two processes; run by test_parallel.

The first step is that of the run of one process. The settings keep from both what depends on the number of processes:
statistics of batch norm, dropout, STAR's term for similarity and the noise of the features that it draws.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from barm.api import fit
from barm.config import load_config
from barm.methods import star

SAME = ("method.freeze_bn=true", "model.dropout=0")
CASES = {  # settings, and whether a batch is divided among the processes: it need not be where nothing trains
    "star": (("method.similarity_weight=0",), True),
    "segacil": (("method.width=64",), False),
}


def main(folder: str, data: str, settings: str, world: str) -> None:
    """Train ``FOLDER/WORLD/METHOD`` of every method."""
    torch.set_num_threads(1)
    drawn = star.drawn_features
    star.drawn_features = lambda old, order, direction, norm: drawn(old, order, 0 * direction, 0 * norm)
    for name, (own, divided) in CASES.items():
        batch = f"increment.batch_size={4 // int(world) if divided else 4}"
        overrides = [*json.loads(settings), *SAME, *own, batch]
        config = load_config(f"shapes/2-1/{name}", overrides, {"data": {"root": data}})
        first = None if world == "1" else Path(folder, "1", name)
        fit(config, out=Path(folder, world, name), start_from=first, quiet=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
