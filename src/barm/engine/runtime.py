"""The hardware behind a handful of verbs: a thin layer over Lightning Fabric.

One process, torchrun and SLURM start the same code; gradients are averaged over all processes.
"""

from __future__ import annotations

import atexit
import copy
import ctypes
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

import torch
from lightning.fabric import Fabric
from lightning.fabric.strategies import DDPStrategy
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from barm.engine.recipe import RuntimeConfig
from barm.errors import UserError
from barm.models.folding import fold_batch_norm
from barm.models.packing import pack

T = TypeVar("T")
MALLOC = {  # options of glibc's malloc.h: what it comes to by itself, and to keep what is freed
    -1: (2**31 - 1, 2**31 - 1),  # M_TRIM_THRESHOLD, in both: the small that stays is not worth a difference
    -2: (128 << 10, 1 << 28),  # M_TOP_PAD
    -3: (32 << 20, 32 << 20),  # M_MMAP_THRESHOLD
    -4: (65536, 0),  # M_MMAP_MAX
}
DTYPES = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


class Runtime:
    """Device, precision and processes.

    Args:
        config: what was asked for; ``auto`` values are resolved here.

    Attributes:
        device: of this process.
        precision: resolved, e.g. ``bf16-mixed``.
        rank: of this process among `world`.
    """

    def __init__(self, config: RuntimeConfig) -> None:
        accelerator = _accelerator(config.device)
        self.precision = _precision(config, accelerator)
        self.channels_last, self.compile = config.channels_last, config.compile
        per_node, nodes = _processes()
        with _quiet():
            self.fabric = Fabric(
                accelerator=accelerator,
                devices=per_node,
                num_nodes=nodes,
                precision=self.precision,
                strategy=DDPStrategy(process_group_backend="nccl" if accelerator == "cuda" else "gloo")
                if per_node * nodes > 1
                else "auto",
            )
            self.fabric.launch()
        if per_node * nodes > 1:
            atexit.register(_leave_group)
        if accelerator == "cpu":
            keep_freed_memory()
        self.device: torch.device = self.fabric.device
        self.rank: int = self.fabric.global_rank
        self.processes_per_node = per_node
        self.world: int = self.fabric.world_size
        self.stop_signal = 0

    @property
    def is_main(self) -> bool:
        """Does this process write files and talk?"""
        return self.rank == 0

    def place(self, module: nn.Module) -> nn.Module:
        """Move a network to the device, in the configured memory layout."""
        if self.channels_last:
            module = module.to(memory_format=torch.channels_last)
        return module.to(self.device)

    def setup(
        self, module: nn.Module, optimizer: torch.optim.Optimizer, sync_bn: bool
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        """Wrap a network and its optimiser for training; `sync_bn` shares batch statistics over GPUs."""
        if sync_bn and self.world > 1 and self.device.type == "cuda":
            module = nn.SyncBatchNorm.convert_sync_batchnorm(module)  # type: ignore[no-untyped-call]
        if self.compile:
            module = torch.compile(module)  # type: ignore[assignment]
        wrapped, wrapped_optimizer = self.fabric.setup(module, optimizer)
        return wrapped, wrapped_optimizer

    def image(self, image: Tensor) -> Tensor:
        """Put pictures into the memory layout of the networks."""
        return image.contiguous(memory_format=torch.channels_last if self.channels_last else torch.contiguous_format)

    def constant(self, module: nn.Module) -> Constant:
        """A copy of a network that never trains again, as fast as it gets on this device."""
        return Constant(module, self)

    def backward(self, loss: Tensor) -> None:
        """Back-propagate, with gradient scaling where the precision needs it."""
        self.fabric.backward(loss)

    def all_sum(self, tensor: Tensor) -> Tensor:
        """Sum over all processes."""
        if self.world > 1:
            tensor = tensor.clone()
            torch.distributed.all_reduce(tensor)  # Fabric's waits for all processes first
        return tensor

    def stopping(self) -> bool:
        """Was any process asked to stop? All processes call it together."""
        if self.world == 1:
            return bool(self.stop_signal)
        return bool(self.all_sum(torch.tensor(float(bool(self.stop_signal)), device=self.device)))

    def barrier(self) -> None:
        """Wait for all processes."""
        self.fabric.barrier()

    def on_main(self, action: Callable[[], object]) -> None:
        """Do something in the main process alone, while the others wait; if it fails there, it fails everywhere."""
        failure: Exception | None = None
        if self.is_main:
            try:
                action()
            except (UserError, OSError) as error:
                failure = error
        message = self.fabric.broadcast("" if failure is None else str(failure))
        if failure is not None:
            raise failure
        if message:
            raise UserError(message)

    def main_first(self, action: Callable[[], T]) -> T:
        """Do something in the main process (fill a cache), then in the others."""
        results: list[T] = []
        self.on_main(lambda: results.append(action()))
        return results[0] if results else action()

    @contextmanager
    def catch_signals(self) -> Iterator[None]:
        """Turn Ctrl-C and SIGTERM into `stop_signal`; a second Ctrl-C ends the process at once."""

        def note(signum: int, _frame: FrameType | None) -> None:
            if self.stop_signal:
                raise KeyboardInterrupt
            self.stop_signal = signum

        before = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)

    @property
    def scales(self) -> bool:
        """Are gradients scaled, and updates that overflow left out by the scaler? (fp16)"""
        return str(self.precision) == "16-mixed"

    def scaler_state(self) -> dict[str, Any]:
        """State of the gradient scaler (fp16 only)."""
        return dict(self.fabric._precision.state_dict())

    def load_scaler_state(self, state: dict[str, Any]) -> None:
        """Restore `scaler_state`."""
        self.fabric._precision.load_state_dict(state)


class Constant:
    """A network as a function: batch norm folded, weights in the precision's type and packed, no gradient.

    Args:
        module: the network; a copy is taken.
        rt: device, precision and memory layout.
    """

    def __init__(self, module: nn.Module, rt: Runtime) -> None:
        self.rt, self.dtype = rt, DTYPES.get(rt.precision, torch.float32)
        network = copy.deepcopy(module).cpu().eval().requires_grad_(False).float()
        self.network, self.packed = rt.place(fold_batch_norm(network).to(self.dtype)), False

    def __call__(self, image: Tensor) -> Any:
        """Run it: ``(N, 3, H, W)`` float -> the network's output in fp32."""
        image = self.rt.image(image).to(self.dtype)
        if not self.packed:
            self.network, self.packed = pack(self.network, image), True
        with torch.inference_mode():
            out = self.network(image)
        # copied outside of inference mode, since a loss may keep it for its gradient
        return tree_map(lambda x: x.to(torch.float32, copy=True) if isinstance(x, Tensor) else x, out)


def unwrap(module: nn.Module) -> nn.Module:
    """The network inside Fabric's wrapper."""
    inner = getattr(module, "module", module)
    return inner if isinstance(inner, nn.Module) else module


def keep_freed_memory(keep: bool = True) -> None:
    """Let glibc keep what is freed: else every large tensor is had from the kernel anew, page by page.

    Measured in docs/speed.md; elsewhere than under glibc nothing happens. Without `keep` large
    tensors come from the kernel again, as glibc has it by itself.
    """
    allocate = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform.startswith("linux") else None
    if allocate is not None:
        for option, values in MALLOC.items():
            allocate(option, values[keep])


def _leave_group() -> None:
    """End the process group before the interpreter ends, or its threads may abort the process."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _accelerator(device: str) -> str:
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("runtime.device is 'cuda' but no CUDA device is visible; use --device cpu or check the driver")
    return "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"


def _precision(config: RuntimeConfig, accelerator: str) -> Any:
    if config.precision == "16-mixed" and accelerator == "cpu":
        raise UserError("precision 16-mixed needs a GPU; use --precision bf16-mixed or 32-true on a CPU")
    if config.precision != "auto":
        return config.precision
    return "bf16-mixed" if _has_bf16(accelerator) else "32-true"


def _has_bf16(accelerator: str) -> bool:
    """Does the processor multiply bf16 in hardware?"""
    if accelerator == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    probe = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(probe and probe())


def _processes() -> tuple[int, int]:
    """Processes per node and number of nodes as torchrun or SLURM announces them; 1, 1 without a launcher."""
    if "LOCAL_WORLD_SIZE" in os.environ and "WORLD_SIZE" in os.environ:
        local = int(os.environ["LOCAL_WORLD_SIZE"])
        return local, int(os.environ["WORLD_SIZE"]) // local
    if "SLURM_NTASKS" in os.environ and os.environ.get("SLURM_JOB_NAME") not in (None, "bash", "interactive"):
        nodes = int(os.environ.get("SLURM_NNODES", "1"))
        return int(os.environ["SLURM_NTASKS"]) // nodes, nodes
    return 1, 1


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Fabric's advice off the terminal."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
