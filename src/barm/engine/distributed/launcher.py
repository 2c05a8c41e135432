"""Read what the launcher, torchrun or SLURM, says about this process. Nothing here needs torch."""

from __future__ import annotations

import hashlib
import os
import socket

NO_JOBS = (None, "bash", "interactive")  # SLURM's names for a shell, in which a command runs by itself


def processes() -> tuple[int, int]:
    """Number of processes per node and of nodes, from torchrun or SLURM; 1, 1 without a launcher."""
    if "LOCAL_WORLD_SIZE" in os.environ and "WORLD_SIZE" in os.environ:
        local = int(os.environ["LOCAL_WORLD_SIZE"])
        return local, int(os.environ["WORLD_SIZE"]) // local
    if _by_slurm():
        nodes = int(os.environ.get("SLURM_NNODES", "1"))
        return int(os.environ["SLURM_NTASKS"]) // nodes, nodes
    return 1, 1


def rank() -> int:
    """Rank of this process; 0 without a launcher."""
    return int(os.environ.get("RANK") or (_by_slurm() and os.environ.get("SLURM_PROCID")) or 0)


def local_rank() -> int:
    """Rank of this process on its machine; 0 without a launcher."""
    return int(os.environ.get("LOCAL_RANK") or (_by_slurm() and os.environ.get("SLURM_LOCALID")) or 0)


def launch() -> str:
    """A mark of the torchrun that started this process, the same for all that it starts again; empty without it."""
    name = os.environ.get("TORCHELASTIC_RUN_ID")
    if name is None:
        return ""
    return hashlib.sha256(f"{name} {socket.gethostname()} {os.getppid()}".encode()).hexdigest()[:16]


def restarted() -> bool:
    """Whether torchrun has started this process again, after it or another of the same run had failed."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT") or 0) > 0


def _by_slurm() -> bool:
    return "SLURM_NTASKS" in os.environ and os.environ.get("SLURM_JOB_NAME") not in NO_JOBS
