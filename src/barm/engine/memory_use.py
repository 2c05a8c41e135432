"""Memory of this process or of a GPU: its peak, and whether what is freed is kept (Linux)."""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress
from pathlib import Path

import torch

STATUS, REFERENCES = Path("/proc/self/status"), Path("/proc/self/clear_refs")
MEGABYTE = 1 << 20
MALLOC = {  # options of glibc's malloc.h: what it comes to by itself, and to keep what is freed
    -1: (2**31 - 1, 2**31 - 1),  # M_TRIM_THRESHOLD, in both: the small that stays is not worth a difference
    -2: (128 << 10, 1 << 28),  # M_TOP_PAD
    -3: (32 << 20, 32 << 20),  # M_MMAP_THRESHOLD
    -4: (65536, 0),  # M_MMAP_MAX
}


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


def keep_freed_memory(keep: bool = True) -> None:
    """Let glibc keep freed memory; otherwise every large tensor is fetched from the kernel anew, page by page.

    Measured in docs/speed.md. Without glibc nothing happens. With `keep` off glibc's default is restored.
    """
    allocate = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform.startswith("linux") else None
    if allocate is not None:
        for option, values in MALLOC.items():
            allocate(option, values[keep])
