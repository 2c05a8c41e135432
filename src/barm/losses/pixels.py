"""Where it is decided how a formula over the labels' pixels is computed.

A formula is written for logits at the labels' size (`barm.losses.common`, `unbiased`, `entropy`, `decomposed`). Three
ways give the same numbers:

* ``plain``: interpolate everything, apply the formula, let autograd do the rest. The definition.
* ``strips``: the same formula strip by strip (`barm.losses.strips`); the gradient of the common ones by hand.
* ``fused``: one Triton kernel (`barm.losses.fused`), on CUDA, for the formulas that have one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache, partial
from typing import Any, Literal

import torch
from torch import Tensor

from barm.batch import Term
from barm.labels import IGNORE
from barm.losses import fused
from barm.losses.common import (
    ELSEWHERE,
    SEGMENTATION_LOSSES,
    best_channel,
    binary_cross_entropy,
    pseudo_labels,
    upsample,
)
from barm.losses.strips import Evaluated, Size, by_autograd, map_strips, sum_strips

ONE = ""  # name of the term of a formula that has one
Path = Literal["auto", "plain", "strips", "fused"]
_forced: ContextVar[Path] = ContextVar("path", default="auto")


@contextmanager
def computed_by(path: Path) -> Iterator[None]:
    """Compute all formulas one way (tests and benchmarks)."""
    token = _forced.set(path)
    try:
        yield
    finally:
        _forced.reset(token)


def way(formula: object, tensor: Tensor) -> Path:
    """How a formula on this tensor is computed."""
    forced = _forced.get()
    if forced in ("auto", "fused"):
        able = formula in (*FUSED_SUMS, *FUSED_MAPS) and tensor.dtype == torch.float32
        return "fused" if able and (forced == "fused" or fused.usable(tensor)) else "strips"
    return forced


def sum_pixels(
    formula: Callable[..., Term], logits: Tensor, *maps: Tensor, old: Sequence[Tensor] = (), **options: Any
) -> Term:
    """A formula's sum over all pixels of the labels.

    Args:
        formula: called with the interpolated logits, the interpolated `old`, the maps and the options.
        logits: at feature resolution, ``(N, C, h, w)``; the gradient reaches these alone.
        maps: per pixel, ``(N, H, W)``; at least one, which says the size.
        old: further logits, without gradient, ``(N, K, h, w)``.
        options: passed on.
    """
    chosen = way(formula, logits)
    if chosen == "fused":
        fast: Term = FUSED_SUMS[formula](logits, *maps, **options)
        return fast
    if chosen == "strips" and formula in ANALYTIC:
        return sum_strips(partial(ANALYTIC[formula], **options), logits, (), maps)[ONE]
    return sum_all(lambda *tensors: {ONE: formula(*tensors, **options)}, logits, *maps, old=old)[ONE]


def sum_all(
    formula: Callable[..., Mapping[str, Term]], logits: Tensor, *maps: Tensor, old: Sequence[Tensor] = ()
) -> dict[str, Term]:
    """The same for a formula of several terms, which share the interpolation; arguments as for `sum_pixels`."""
    if way(formula, logits) == "plain":
        size = (maps[0].shape[1], maps[0].shape[2])
        return dict(formula(upsample(logits, size), *(upsample(o.detach(), size) for o in old), *maps))
    return sum_strips(by_autograd(formula), logits, [o.detach() for o in old], maps)


@torch.no_grad()
def map_pixels(formula: Any, logits: Tensor, *maps: Tensor, size: Size | None = None, **options: Any) -> Any:
    """What a formula makes of every pixel, without gradient.

    Args:
        formula: called with the interpolated logits, the maps and the options; gives one map or a tuple of maps.
        logits: at feature resolution, ``(N, C, h, w)``.
        maps: per pixel, ``(N, H, W)``.
        size: of the labels, where no map says it.
        options: passed on.

    Returns:
        A map ``(N, H, W)`` or a tuple of them.
    """
    size = size or (maps[0].shape[1], maps[0].shape[2])
    chosen = way(formula, logits)
    if chosen == "plain":
        return formula(upsample(logits, size), *maps, **options)
    if chosen == "fused":
        return FUSED_MAPS[formula](logits, *maps, size=size, **options)
    return map_strips(partial(formula, **options), logits, maps, size)


def segmentation(loss: str, logits: Tensor, label: Tensor, *, trained: Sequence[int] | None = None) -> Term:
    """The segmentation loss of the labels.

    Args:
        loss: a name in `SEGMENTATION_LOSSES`.
        logits: at feature resolution, ``(N, C, h, w)``.
        label: channels, ``(N, H, W)`` int64.
        trained: channels that get a gradient; all by default. The others of a binary cross-entropy do not influence
            these: their part of the value is computed when somebody asks for it.
    """
    formula = SEGMENTATION_LOSSES[loss]
    if trained is None:
        return sum_pixels(formula, logits, label)
    total = logits.shape[1]
    learned, still = tuple(trained), tuple(c for c in range(total) if c not in trained)
    if formula is not binary_cross_entropy or way(formula, logits) == "plain":
        fixed = (numbering(learned, total, logits.device) == ELSEWHERE)[:total]
        return sum_pixels(formula, torch.where(fixed.view(1, -1, 1, 1), logits.detach(), logits), label)
    term = sum_pixels(formula, _channels(logits, learned), renumbered(label, learned, total))
    constant = logits.detach()
    return term._replace(
        rest=lambda: sum_pixels(formula, _channels(constant, still), renumbered(label, still, total)).total
    )


def renumbered(label: Tensor, channels: Sequence[int], total: int) -> Tensor:
    """Labels for logits that hold these of `total` channels alone: others are `ELSEWHERE`, 255 stays."""
    return numbering(tuple(channels), total, label.device)[label.long()]


@lru_cache(maxsize=32)
def numbering(channels: tuple[int, ...], total: int, device: torch.device) -> Tensor:
    """The table of `renumbered`, and where it says `ELSEWHERE`; made once, since a copy to a GPU waits for it."""
    with torch.inference_mode(False):
        table = torch.full((max(IGNORE + 1, total),), ELSEWHERE)
        table[IGNORE] = IGNORE
        table[list(channels)] = torch.arange(len(channels))
        return table.to(device)


@lru_cache(maxsize=32)
def _positions(channels: tuple[int, ...], device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.tensor(channels, dtype=torch.int64, device=device)


def _channels(logits: Tensor, channels: tuple[int, ...]) -> Tensor:
    """Some channels of ``(N, C, h, w)``."""
    return logits.index_select(1, _positions(channels, logits.device))


def _binary_cross_entropy(logits: Tensor, rest: Sequence[Tensor], wanted: bool) -> Evaluated:
    """Value and gradient of `binary_cross_entropy` on a strip: ``sigmoid(x) - [c = y]`` where the label is valid."""
    label = rest[0]
    valid = label != IGNORE
    here = (valid & (label != ELSEWHERE)).to(logits.dtype)
    channel = label.masked_fill(here == 0, 0).unsqueeze(1)
    positive = logits.gather(1, channel).squeeze(1)
    small = torch.exp(-logits.abs())
    softplus = logits.clamp(min=0) + _log1p(small)
    term = Term((softplus.sum(1) * valid - positive * here).sum(), valid.sum())
    if not wanted:
        return Evaluated({ONE: term}, [None])
    gradient = torch.sigmoid(logits).mul_(valid.unsqueeze(1))
    return Evaluated({ONE: term}, [gradient.scatter_add_(1, channel, -here.unsqueeze(1))])


def _log1p(small: Tensor) -> Tensor:
    """``log(1 + x)`` for x in 0..1 by Kahan's correction of the logarithm, twice as fast as torch's on a processor."""
    above = 1 + small
    return torch.where(above == 1, small, torch.log(above) * (small / (above - 1)))


ANALYTIC: dict[Any, Any] = {binary_cross_entropy: _binary_cross_entropy}
FUSED_SUMS: dict[Any, Any] = {binary_cross_entropy: fused.binary_cross_entropy}
FUSED_MAPS: dict[Any, Any] = {best_channel: fused.best_channel, pseudo_labels: fused.pseudo_labels}
