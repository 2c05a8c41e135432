"""Time and memory of functions that run in turn, after a warm-up: medians, minima and maxima."""

from __future__ import annotations

import ctypes
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from barm.engine.memory_use import resident

Work = Callable[[], object]


@dataclass(frozen=True)
class Cost:
    """Cost of one call.

    Attributes:
        median: seconds.
        least: seconds.
        most: seconds.
        memory: peak bytes beyond those in use before; None where it cannot be measured.
        processor: median processor seconds of this process; other work on the machine adds little to it.
        first: seconds of the first call, in which a compiler works and graphs are recorded.
    """

    median: float
    least: float
    most: float
    memory: int | None
    processor: float | None = None
    first: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """The values as a dict for JSON."""
        return asdict(self)


def side_by_side(
    work: Mapping[str, Work], device: torch.device, rounds: int, say: Callable[[str], None] = lambda _: None
) -> dict[str, Cost]:
    """Call every function once per round, in turn, so that a disturbance of the machine hits all of them.

    Args:
        work: functions by name.
        device: on which they work.
        rounds: measured rounds; one more before them warms up, one after them measures memory.
        say: called with what is being done.
    """
    seconds: dict[str, list[float]] = {name: [] for name in work}
    processor: dict[str, list[float]] = {name: [] for name in work}
    recorded: dict[str, int] = {}
    first: dict[str, float] = {}
    for round_ in range(rounds + 1):
        for name, function in work.items():
            say(f"{'warm-up' if round_ == 0 else f'round {round_} of {rounds}'}: {name}")
            before = graph_memory(device) if round_ == 0 else 0
            began, busy = time.perf_counter(), time.process_time()
            function()
            finish(device)
            if round_ == 0:
                first[name] = time.perf_counter() - began
                recorded[name] = graph_memory(device) - before
            else:
                seconds[name].append(time.perf_counter() - began)
                processor[name].append(time.process_time() - busy)
    costs = {}
    for name, s in seconds.items():
        memory = peak_memory(work[name], device)
        memory = None if memory is None else memory + recorded[name]
        costs[name] = Cost(
            statistics.median(s), min(s), max(s), memory, statistics.median(processor[name]), first[name]
        )
    return costs


def finish(device: torch.device) -> None:
    """Wait until the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def graph_memory(device: torch.device) -> int:
    """Bytes of the GPU that recorded CUDA graphs hold."""
    if device.type != "cuda":
        return 0
    pools = torch.cuda.memory_snapshot()  # type: ignore[no-untyped-call]
    return sum(int(part["total_size"]) for part in pools if tuple(part["segment_pool_id"]) != (0, 0))


def peak_memory(function: Work, device: torch.device) -> int | None:
    """Bytes that a call needs beyond those in use before it, of the GPU's memory or else of this process (Linux)."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        function()
        finish(device)
        return int(torch.cuda.max_memory_allocated(device) - before)
    if not sys.platform.startswith("linux") or not Path("/proc/self/clear_refs").exists():
        return None
    ctypes.CDLL(None).malloc_trim(0)  # what was freed before is not to hide what is needed now
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    resting = resident("VmRSS")
    function()
    peak = resident("VmHWM")
    return None if resting is None or peak is None else peak - resting
