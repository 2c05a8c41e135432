"""Peak memory: of the tensors on a GPU, or else of this process (Linux)."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import torch

STATUS, REFERENCES = Path("/proc/self/status"), Path("/proc/self/clear_refs")
MEGABYTE = 1 << 20


def forget_peak(device: torch.device) -> None:
    """Reset the peak."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):
        REFERENCES.write_text("5")


def peak_memory(device: torch.device) -> int | None:
    """Peak in bytes since `forget_peak`; None where it cannot be measured."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resident("VmHWM")


def resident(field: str) -> int | None:
    """Resident bytes of this process, now (``VmRSS``) or at most (``VmHWM``)."""
    with suppress(OSError):
        for line in STATUS.read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1]) * 1024
    return None
