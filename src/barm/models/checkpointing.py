"""Gradient checkpointing: what a backbone's blocks compute is computed again in the backward pass, instead of kept.

Only the inputs of the blocks are kept. Losses, gradients, weights and running statistics are the same, bit for bit,
where the same operations give the same bits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map
from torch.utils.checkpoint import checkpoint

from barm.models.adapters import is_adapted
from barm.models.depth import LISTS, opened, parts_of
from barm.models.reclassed import Reclassed, become

Buffers = dict[str, Tensor | None]  # of a module, by name


class Outward(nn.Module):
    """A part that calls modules outside of itself: no block that holds one is computed twice."""


class Recomputed(Reclassed):
    """A block that keeps its inputs alone for the backward pass.

    The second pass has the random numbers and the autocast of the first. It leaves running statistics, and whatever
    else modules keep, as the first has left them.
    """

    def forward(self, *args: Any, **options: Any) -> Any:
        """Apply the block; in the backward pass once more."""
        forward = super().forward
        if not torch.is_grad_enabled():
            return forward(*args, **options)
        args, options = tree_map(lambda x: x, (args, options))  # lists that may grow until the second pass
        return checkpoint(forward, *args, use_reentrant=False, context_fn=partial(_passes, self), **options)


class Uncompiled(Reclassed):
    """A backbone that `torch.compile` leaves as it is."""

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # the captured second pass would update statistics
    def forward(self, *args: Any, **options: Any) -> Any:
        """Apply the backbone."""
        return super().forward(*args, **options)


def recompute_blocks(backbone: nn.Module) -> None:
    """Let every block of a backbone be computed again in the backward pass, in place.

    `barm.models.batch_norm.ordinary` reverts it. A backbone that does not train, or has no blocks, stays as it is.

    Args:
        backbone: any; parts that are single layers have nothing to compute again.
    """
    found = list(blocks(backbone))
    if not found or not any(parameter.requires_grad for parameter in backbone.parameters()):
        return
    for block in found:
        become(block, Recomputed)
    become(backbone, Uncompiled)


def blocks(backbone: nn.Module) -> Iterator[nn.Module]:
    """The blocks of a backbone: its parts, of stages their parts, without single layers.

    A stage holds a list of parts of one kind. A part is opened like a stage if what is in it is watched by hooks, or
    calls what is outside: the second pass would be noticed there.
    """
    for part in parts_of(backbone):
        yield from _blocks(part)


def _blocks(part: nn.Module) -> Iterator[nn.Module]:
    if _layers(part) < 2:
        return
    if _is_stage(part) or _is_noticed(part):
        for child in opened(part):
            yield from _blocks(child)
    else:
        yield part


def _layers(module: nn.Module) -> int:
    """Number of modules with weights of their own; a layer with an adapter counts once."""
    if is_adapted(module):
        return 1
    own = any(parameter is not None for parameter in module._parameters.values())
    return own + sum(map(_layers, module.children()))


def _is_stage(part: nn.Module) -> bool:
    """Whether the part, or a list in it, holds blocks: parts of one class, more than a layer and its norm."""
    own = list(opened(part))
    alike = len(own) > 1 and len({type(child) for child in own}) == 1 and _layers(own[0]) > 2
    lists = [opened(module) for module in part.modules() if isinstance(module, LISTS)]
    kinds = [Counter(type(child) for child in children if _layers(child) > 2) for children in lists]
    return alike or any(number > 1 for counts in kinds for number in counts.values())


def _is_noticed(part: nn.Module) -> bool:
    inner = [module for module in part.modules() if module is not part]
    hooked = any(module._forward_hooks or module._forward_pre_hooks for module in inner)
    return hooked or any(isinstance(module, Outward) for module in part.modules())


def _passes(block: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Contexts of the first and of every later pass."""
    return nullcontext(), _LaterPass(block)


def _copies(buffers: Buffers) -> Buffers:
    return {name: None if buffer is None else buffer.clone() for name, buffer in buffers.items()}


class _LaterPass(AbstractContextManager[None]):
    """Context in which modules compute on copies of their buffers, and keep what the first pass has left in them.

    So batch norm updates its running statistics once. (Without any it would save other tensors than in the first pass.)

    Args:
        block: before its first pass.
    """

    def __init__(self, block: nn.Module) -> None:
        self.modules = list(block.modules())
        self.given = {module: _copies(module._buffers) for module in self.modules if module.training}

    def __enter__(self) -> None:
        self.left = [dict(module.__dict__) for module in self.modules]
        for module, buffers in self.given.items():
            module._buffers = _copies(buffers)

    def __exit__(self, *_raised: object) -> None:
        for module, attributes in zip(self.modules, self.left, strict=True):
            module.__dict__.clear()
            module.__dict__.update(attributes)
        del self.left
