"""Two processes with batch b do what one process does with batch 2b."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

WORKER = Path(__file__).with_name("parallel_worker.py")


def launch(world: int, *words: str) -> None:
    """Run the worker in `world` processes, as torchrun would."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for rank in range(world):
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        if world > 1:
            env |= {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(world),
                "LOCAL_WORLD_SIZE": str(world),
                "GROUP_RANK": "0",
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "TORCHELASTIC_RUN_ID": "test",
            }
        processes.append(subprocess.Popen([sys.executable, str(WORKER), *words], env=env))
    assert [p.wait(timeout=120) for p in processes] == [0] * world


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["equal", "unequal"])
@pytest.mark.parametrize("name", ["barm", "finetune"])
def test_two_processes_equal_one(name, kind, tmp_path):
    launch(1, name, kind, str(tmp_path / "one.pt"))
    launch(2, name, kind, str(tmp_path / "two.pt"))
    one, two = (torch.load(tmp_path / f"{n}.pt", weights_only=True) for n in ("one", "two"))
    assert one["values"] == pytest.approx(two["values"], rel=1e-5)
    for key, expected in one["model"].items():
        largest = float(expected.abs().max()) if expected.numel() else 0.0
        assert float((two["model"][key].double() - expected.double()).abs().max()) <= 1e-5 * max(largest, 1e-12), key
