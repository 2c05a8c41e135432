"""CUDA graphs: thousands of kernels of an update launched as three.

The teacher's forward pass, and the student's forward and backward pass, are recorded at the first batch and replayed
for every later batch of the same shape. The kernels are those of the ordinary passes. A network that cannot be
recorded, because it reads values back from the GPU, is run as it is. With gradient checkpointing nothing is recorded:
its second pass sets the state of the random numbers from the processor.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from barm.models.frozen import Constant

MODE: dict[str, Any] = {"capture_error_mode": "thread_local"}  # the loader's thread goes on pinning memory meanwhile


class GraphedNetwork(nn.Module):
    """A training network as two CUDA graphs, which are recorded anew when the shape of the batch or a mode changes.

    Recording leaves running statistics and the state of the random numbers as they were.

    Args:
        network: on the GPU.
        dtype: of autocast, or None for fp32.
        pool: memory of the graphs, shared with the teacher's, which is recorded and replayed before these.
    """

    def __init__(self, network: nn.Module, dtype: torch.dtype | None, pool: Any) -> None:
        super().__init__()
        self.network, self.dtype, self.pool = network, dtype, pool
        self._key: Any = None
        self._run: Callable[[Tensor], Any] = network

    def forward(self, image: Tensor) -> Any:
        """Apply the network. The next call overwrites the result."""
        if not (self.network.training and torch.is_grad_enabled()):
            return self.network(image)
        key = image.shape, image.dtype, tuple(module.training for module in self.network.modules())
        if key != self._key:
            self.forget()
            self._key = key
            self._run = self._recorded(image)
        return self._run(image)

    def forget(self) -> None:
        """Free the memory of the graphs; the next call records them anew."""
        self._key, self._run = None, self.network
        gc.collect()  # torch's callables refer to themselves

    def _recorded(self, image: Tensor) -> Callable[[Tensor], Any]:
        buffers = [(buffer, buffer.clone()) for buffer in self.network.buffers()]
        random = torch.cuda.get_rng_state(image.device)
        _expect_two_streams()
        inner = _Autocast(self.network, self.dtype)
        try:
            with torch.autocast("cuda", enabled=False, cache_enabled=False), _others_go_on() as mode:
                run: Callable[[Tensor], Any] = torch.cuda.make_graphed_callables(
                    inner, (image.detach().clone(),), allow_unused_input=True, pool=self.pool, **mode
                )
        except torch.cuda.OutOfMemoryError:
            raise
        except (RuntimeError, AssertionError) as error:
            run = _as_it_is(self.network, error)
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
        torch.cuda.set_rng_state(random, image.device)
        return run


@contextmanager
def _others_go_on() -> Iterator[dict[str, Any]]:
    """Context in which `torch.cuda.make_graphed_callables`, called with what it yields, records in this `MODE`."""
    if "capture_error_mode" in signature(torch.cuda.make_graphed_callables).parameters:
        yield MODE
        return
    before = torch.cuda.graph  # torch 2.11 takes no mode, and records with this
    torch.cuda.graph = partial(before, **MODE)  # type: ignore[misc, assignment]
    try:
        yield {}
    finally:
        torch.cuda.graph = before  # type: ignore[misc]


def _as_it_is(network: Callable[[Tensor], Any], error: Exception) -> Callable[[Tensor], Any]:
    """The network without graphs, and a line that says why."""
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    warnings.warn(f"runtime.cuda_graphs: the network cannot be recorded ({reason}), it runs as it is", stacklevel=4)
    return network


def _expect_two_streams() -> None:
    """Keep torch from warning of gradients that come from the stream of the recording, which it waits for."""
    switch = getattr(torch.autograd.graph, "set_warn_on_accumulate_grad_stream_mismatch", None)
    if switch is not None:
        switch(False)


class _Autocast(nn.Module):
    """A network under an autocast that does not keep the converted weights, since every replay converts them anew."""

    def __init__(self, network: nn.Module, dtype: torch.dtype | None) -> None:
        super().__init__()
        self.network, self.dtype = network, dtype

    def forward(self, image: Tensor) -> Any:
        with torch.autocast("cuda", self.dtype, enabled=self.dtype is not None, cache_enabled=False):
            return self.network(image)


class GraphedTeacher:
    """A constant network as a CUDA graph, which is recorded anew when the shape of the batch changes.

    Args:
        teacher: on the GPU.
        pool: memory of the graph.
    """

    def __init__(self, teacher: Constant, pool: Any) -> None:
        self.teacher, self.pool = teacher, pool
        self._key: Any = None
        self._replay: Callable[[Tensor], Any] = teacher

    def __call__(self, image: Tensor) -> Any:
        """Apply the network to ``(N, 3, H, W)``; output in fp32, which the next call overwrites."""
        key = image.shape, image.dtype
        if key != self._key:
            self.forget()
            self._key = key
            self._replay = self._recorded(image)
        return self._replay(image)

    def forget(self) -> None:
        """Free the memory of the graph; the next call records it anew."""
        self._key, self._replay = None, self.teacher

    def _recorded(self, image: Tensor) -> Callable[[Tensor], Any]:
        given, graph, stream = image.detach().clone(), torch.cuda.CUDAGraph(), torch.cuda.Stream(image.device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(image.device))
        try:
            with torch.cuda.stream(stream):
                for _ in range(3):  # algorithms are chosen and workspaces allocated before the recording
                    self.teacher(given)
            torch.cuda.current_stream(image.device).wait_stream(stream)
            with torch.cuda.graph(graph, pool=self.pool, stream=stream, **MODE):
                out = self.teacher(given)
        except torch.cuda.OutOfMemoryError:
            raise
        except RuntimeError as error:
            return _as_it_is(self.teacher, error)

        def replay(image: Tensor) -> Any:
            given.copy_(image)
            graph.replay()
            return out

        return replay
