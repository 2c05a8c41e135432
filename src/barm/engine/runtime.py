"""Device, precision and processes behind a few methods: a thin layer over Lightning Fabric.

One process, torchrun and SLURM start the same code; gradients are averaged over all processes.
"""

from __future__ import annotations

import atexit
import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from inspect import signature
from typing import Any, TypeVar, cast

import torch
from lightning_fabric import Fabric  # `lightning.fabric` is the same, and imports all of Lightning
from lightning_fabric.strategies import DDPStrategy
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from barm.engine.config import RuntimeConfig
from barm.engine.distributed import watch
from barm.engine.distributed.launcher import processes
from barm.engine.graphs import GraphedNetwork, GraphedTeacher
from barm.engine.memory_use import keep_freed_memory
from barm.engine.signals import on_stop
from barm.errors import UserError
from barm.models.batch_norm import synchronised
from barm.models.checkpointing import recompute_blocks
from barm.models.depthwise import speed_up_depthwise
from barm.models.frozen import Constant
from barm.models.frozen_norm import take_in_frozen_norms

T = TypeVar("T")
SENDS_BUFFERS = next(  # at every update; torch 2.14 has renamed it
    name
    for name in ("forward_sync_buffers", "broadcast_buffers")
    if name in signature(DistributedDataParallel).parameters
)
DTYPES = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


class Runtime:
    """Device, precision and processes.

    Args:
        config: the requested settings; ``auto`` values are resolved here.

    Attributes:
        device: of this process.
        precision: resolved, e.g. ``bf16-mixed``.
        rank: of this process among `world`.
        compile: whether networks that train are compiled; `auto` is settled for a run (`barm.engine.compilation`).
        recomputes: whether blocks of the backbone are computed again in the backward pass.
    """

    def __init__(self, config: RuntimeConfig) -> None:
        accelerator = _accelerator(config.device)
        self.precision = _precision(config, accelerator)
        self.channels_last, self.compile = config.channels_last, config.compile is True
        self.deterministic, self.recomputes = config.deterministic, config.gradient_checkpointing
        _set_arithmetic(self.precision, config.deterministic)
        per_node, nodes = processes()
        with _quiet():
            self.fabric = Fabric(
                accelerator=accelerator,
                devices=per_node,
                num_nodes=nodes,
                precision=self.precision,
                strategy=_data_parallel(accelerator) if per_node * nodes > 1 else "auto",
            )
            self.fabric.launch()
        self.watch: watch.Watch | None = None
        if per_node * nodes > 1:
            self.watch = watch.start(
                self.fabric.global_rank, per_node * nodes, one_machine=nodes == 1, share=self.fabric.broadcast
            )
            atexit.register(_leave_group)
        if accelerator == "cpu":
            keep_freed_memory()
        self.device: torch.device = self.fabric.device
        recorded = config.cuda_graphs and not config.gradient_checkpointing  # whose second pass none records
        graphs = recorded and accelerator == "cuda" and per_node * nodes == 1
        self._pool: Any = torch.cuda.graph_pool_handle() if graphs else None
        self.rank: int = self.fabric.global_rank
        self.processes_per_node = per_node
        self.world: int = self.fabric.world_size
        self.stop_signal = 0
        self._alone = False

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def place(self, module: nn.Module) -> nn.Module:
        """Move a network to the device, in the configured memory layout."""
        return module.to(memory_format=self.layout).to(self.device)

    @property
    def layout(self) -> torch.memory_format:
        """Memory layout of the networks and their images."""
        return torch.channels_last if self.channels_last else torch.contiguous_format

    @property
    def shares_statistics(self) -> bool:
        """Whether batch statistics are shared between processes.

        They are between GPUs; torch cannot share them on processors.
        """
        return self.world > 1 and self.device.type == "cuda"

    def setup(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        trains_bn: bool,
        frozen: nn.Module | None = None,
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        """Wrap a network and its optimiser for training.

        Args:
            module: on the device; what is wrapped may be another network with the same tensors.
            optimizer: of its parameters.
            trains_bn: whether its batch norm uses batch statistics.
            frozen: a child of it whose batch norm does not train in any case.
        """
        if trains_bn and self.shares_statistics:
            module = synchronised(module, frozen)
        part = frozen if trains_bn else module
        if part is not None:
            take_in_frozen_norms(part)
        if self.device.type == "cpu":
            speed_up_depthwise(module)
        if self.recomputes:
            recompute_blocks(cast(nn.Module, getattr(module, "backbone", module)))
        if self.compile:
            torch.compiler.reset()  # or a task's ninth network is one too many for the compiler, and runs as it is
            module = torch.compile(module)  # type: ignore[assignment]
        if self._pool is not None:
            module = GraphedNetwork(module, DTYPES.get(self.precision), self._pool)
        wrapped, wrapped_optimizer = self.fabric.setup(module, optimizer)
        return wrapped, wrapped_optimizer

    def teacher(self, teacher: Constant) -> Constant | GraphedTeacher:
        """The previous network as a function of batches of one shape, whose result the next call may overwrite."""
        return teacher if self._pool is None else GraphedTeacher(teacher, self._pool)

    def image(self, image: Tensor) -> Tensor:
        """Put images into the memory layout of the networks."""
        return image.contiguous(memory_format=self.layout)

    def constant(self, module: nn.Module, *, exact: bool = False) -> Constant:
        """A copy of a network that never trains again, as fast as it gets on this device; in float32 if `exact`."""
        dtype = torch.float32 if exact else constant_type(self.precision, self.device)
        return Constant(module, dtype, self.device, self.layout)

    @contextmanager
    def one_shape(self, one: bool = True) -> Iterator[None]:
        """Context in which all batches have one shape (if `one`), so that cuDNN may search its fastest algorithm.

        The fastest algorithm can differ from run to run, so there is no search in a deterministic run.
        """
        before = torch.backends.cudnn.benchmark
        torch.backends.cudnn.benchmark = one and not self.deterministic
        try:
            yield
        finally:
            torch.backends.cudnn.benchmark = before

    def backward(self, loss: Tensor) -> None:
        """Back-propagate, with gradient scaling where the precision needs it."""
        self.fabric.backward(loss)

    def enter(self) -> None:
        """Announce that this process enters a collective. A process that has left is reported here, not there.

        Raises:
            Died: if a process died, or has left before this.
        """
        if self.watch is not None:
            self.watch.enter()

    def all_sum(self, tensor: Tensor) -> Tensor:
        """Sum over all processes."""
        if self.world > 1:
            self.enter()
            tensor = tensor.clone()
            torch.distributed.all_reduce(tensor)  # Fabric's waits for all processes first
        return tensor

    def share_buffers(self, module: nn.Module) -> None:
        """Copy the main process's buffers to every process, in place.

        Running statistics that were not shared differ between processes.
        """
        if self.watch is not None:
            self.watch.enter()
            for buffer in module.buffers():
                torch.distributed.broadcast(buffer, src=0)

    def stopping(self) -> bool:
        """Whether any process was asked to stop. All processes call it together."""
        if self.world == 1:
            return bool(self.stop_signal)
        return bool(self.all_sum(torch.tensor(float(bool(self.stop_signal)), device=self.device)))

    def on_main(self, action: Callable[[], object]) -> None:
        """Run an action in the main process alone, while the others wait. If it fails there, it fails everywhere.

        The others wait as long as the main process lives.
        """
        if self.watch is None or self._alone:
            action()
        elif self.is_main:
            self._for_all(self.watch, action)
        else:
            kind, message = self.watch.hear()
            if kind == watch.USER:
                raise UserError(message)
            if kind == watch.OTHER:
                raise watch.Died(message)

    def _for_all(self, keeper: watch.Watch, action: Callable[[], object]) -> None:
        """Run the main process's part of `on_main`."""
        try:
            with self.alone():
                action()
        except (UserError, OSError) as error:
            keeper.tell(watch.USER, str(error))
            raise
        except BaseException as error:
            keeper.origin = True
            keeper.tell(watch.OTHER, f"the main process failed: {type(error).__name__}: {error}")
            raise
        keeper.tell("", "")

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Context in which `on_main` and `from_main` act in this process alone."""
        before, self._alone = self._alone, True
        try:
            yield
        finally:
            self._alone = before

    def from_main(self, action: Callable[[], T]) -> T:
        """Compute a value in the main process and return it in every process, so that all decide alike."""
        if self.watch is None or self._alone:
            return action()
        results: list[T] = []
        self.on_main(lambda: results.append(action()))
        found: list[T] = self.fabric.broadcast(results)
        return found[0]

    def main_first(self, action: Callable[[], T]) -> T:
        """Run an action in the main process (fill a cache), then in the others; all wait for all."""
        results: list[T] = []
        self.on_main(lambda: results.append(action()))
        found = results[0] if results else self._as_main(action)
        if self.watch is not None:
            self.watch.meet()
        return found

    def _as_main(self, action: Callable[[], T]) -> T:
        """Run an action that the main process has done; a process in which it fails must not go on alone."""
        try:
            return action()
        except UserError as error:
            raise watch.Died(f"process {self.rank} cannot do what the main process could: {error}") from error

    @contextmanager
    def catch_signals(self) -> Iterator[None]:
        """Turn Ctrl-C and SIGTERM into `stop_signal`; a second Ctrl-C ends the process at once.

        Outside the main thread signals are not changed.
        """

        def note(signum: int) -> None:
            if self.stop_signal:
                raise KeyboardInterrupt
            self.stop_signal = signum

        with on_stop(note):
            yield

    @property
    def scales(self) -> bool:
        """Whether gradients are scaled, and updates that overflow skipped by the scaler (fp16)."""
        return str(self.precision) == "16-mixed"

    def scaler_state(self) -> dict[str, Any]:
        """State of the gradient scaler (fp16 only)."""
        return dict(self.fabric._precision.state_dict())

    def load_scaler_state(self, state: dict[str, Any]) -> None:
        """Restore `scaler_state`."""
        self.fabric._precision.load_state_dict(state)


def constant_type(precision: str, device: torch.device) -> torch.dtype:
    """The type in which a constant network computes.

    It is the precision's type, but fp32 on a processor without bf16 convolutions. There torch's own loops would replace
    oneDNN's (ten to twenty times as long: docs/speed.md).
    """
    dtype = DTYPES.get(precision, torch.float32)
    return torch.float32 if dtype == torch.bfloat16 and device.type == "cpu" and not _convolves_bf16() else dtype


def unwrap(module: nn.Module) -> nn.Module:
    """The network inside Fabric's wrapper, as it trains. Its batch norm may share statistics (see `ordinary`)."""
    inner = getattr(module, "module", module)
    inner = inner if isinstance(inner, nn.Module) else module
    if isinstance(inner, GraphedNetwork):
        inner = inner.network
    compiled = getattr(inner, "_orig_mod", None)  # of torch.compile
    return compiled if isinstance(compiled, nn.Module) else inner


def _leave_group() -> None:
    """End the process group before the interpreter ends; otherwise its threads may abort the process.

    Torch 2.6 waits for these threads while it holds the interpreter's lock, for which a thread waits that frees its
    last tensor. So they are given the time to do it.
    """
    if torch.distributed.is_initialized():
        time.sleep(0.2)
        torch.distributed.destroy_process_group()


def _accelerator(device: str) -> str:
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("runtime.device is 'cuda' but no CUDA device is visible; use --device cpu or check the driver")
    return "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"


def _data_parallel(accelerator: str) -> DDPStrategy:
    """Average gradients over the processes.

    Buffers are not synchronised: on GPUs running statistics are shared by themselves; elsewhere those of the main
    process count, and `Runtime.share_buffers` copies them once.
    """
    options: dict[str, Any] = {SENDS_BUFFERS: False}
    return DDPStrategy(process_group_backend="nccl" if accelerator == "cuda" else "gloo", **options)


def _precision(config: RuntimeConfig, accelerator: str) -> Any:
    if config.precision == "16-mixed" and accelerator == "cpu":
        raise UserError("precision 16-mixed needs a GPU; use --precision bf16-mixed or 32-true on a CPU")
    if config.precision != "auto":
        return config.precision
    return "bf16-mixed" if _has_bf16(accelerator) else "32-true"


def _set_arithmetic(precision: str, deterministic: bool) -> None:
    """Make 32-true exact: by default torch lets cuDNN round the factors of fp32 convolutions to 10 bits."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch 2.9 prefers other names, which older releases lack
        torch.backends.cudnn.allow_tf32 = precision != "32-true"
        if precision == "32-true":
            torch.backends.cuda.matmul.allow_tf32 = False
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read by cuBLAS at its first product
        torch.use_deterministic_algorithms(True, warn_only=True)


def _has_bf16(accelerator: str) -> bool:
    """Whether the processor multiplies bf16 in hardware."""
    if accelerator == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    probe = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(probe and probe())


def _convolves_bf16() -> bool:
    """Whether oneDNN computes bf16 convolutions on this processor.

    It may convert them, while `_has_bf16` is about multiplication.
    """
    probe = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return bool(probe and probe())


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
