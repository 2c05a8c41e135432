"""Whole runs of several recipes with trained batch norm, in one of two processes; run by test_processes.

Every process is given another folder for the run, as if the disk showed the second one nothing of what the first wrote.
"""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

import pytest
import torch

from barm.api import fit
from barm.config import load_config
from barm.engine import run as sequence
from barm.engine.distributed.launcher import rank
from barm.engine.monitor import Monitor
from barm.errors import Stopped


def main(target: str, data: str, settings: str, *recipes: str) -> None:
    folder, measure = Path(target), sequence.evaluate_step

    def noting(config, rt, method, model, *rest):
        state = {name: value.detach().cpu().clone() for name, value in model.named_parameters()}
        torch.save(state, folder / f"{recipe}-{method.step.index}-{rt.rank}.pt")
        return measure(config, rt, method, model, *rest)

    sequence.evaluate_step = noting
    for recipe in recipes:
        overrides = [*json.loads(settings), "method.freeze_bn=false"]
        config = load_config(f"shapes/2-1/{recipe}", overrides, {"data": {"root": data}})
        metrics = fit(config, out=folder / str(rank()) / recipe, quiet=True)
        (folder / f"{recipe}-{rank()}.json").write_text(json.dumps(metrics))
    stop_and_resume(config, folder / str(rank()) / "stopped")


def stop_and_resume(config, out: Path) -> None:
    """Stop at the second update of step 0, by a signal to the second process alone, and go on."""
    progress = Monitor.progress

    def stopping(self, iteration, values, lr):
        progress(self, iteration, values, lr)
        if rank() == 1 and iteration == 1 and self.step == 0:
            signal.raise_signal(signal.SIGTERM)

    Monitor.progress = stopping
    with pytest.raises(Stopped, match="stopped at step 0, iteration 2 of"):
        fit(config, out=out, quiet=True)
    Monitor.progress = progress
    fit(config, out=out, resume=True, quiet=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
