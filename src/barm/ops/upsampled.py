"""Choose how a formula over the labels' pixels is computed: plain, strip by strip, or by a Triton kernel.

A formula is written for logits at the labels' size (`barm.losses`). Three paths give the same numbers:

* ``plain``: interpolate everything, apply the formula, let autograd do the rest. The definition.
* ``strips``: the same formula strip by strip (`barm.ops.strips`); with the gradient by hand where the formula has one.
* ``fused``: one Triton kernel (`barm.ops.triton`), on CUDA, for the formulas that have one.

The module of a formula registers its faster forms with `accelerate`; nothing here knows a formula by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from barm.batch import Term
from barm.ops import triton
from barm.ops.strips import Evaluate, Size, by_autograd, map_strips, sum_strips

ONE = ""  # name of the term of a formula that has one
Path = Literal["auto", "plain", "strips", "fused"]
_forced: ContextVar[Path] = ContextVar("path", default="auto")


class _Forms(NamedTuple):
    """Faster versions of a formula, see `accelerate`."""

    analytic: Callable[..., Any] | None
    fused: Callable[..., Any] | None


_FORMS: dict[object, _Forms] = {}
_NONE = _Forms(None, None)


def accelerate(
    formula: Callable[..., Any], *, analytic: Callable[..., Any] | None = None, fused: Callable[..., Any] | None = None
) -> None:
    """Register faster versions of a formula, which must give the same numbers.

    Args:
        formula: as `sum_pixels` or `map_pixels` is called with it.
        analytic: value and gradient on a strip (`barm.ops.strips.Evaluate`), under the name `ONE`.
        fused: the formula on float32 logits at feature resolution, in a kernel; of a map it takes ``size=`` too.
    """
    _FORMS[formula] = _Forms(analytic, fused)


@contextmanager
def computed_by(path: Path) -> Iterator[None]:
    """Force one path for all formulas (tests and benchmarks)."""
    token = _forced.set(path)
    try:
        yield
    finally:
        _forced.reset(token)


def path_of(formula: object, tensor: Tensor) -> Path:
    """The path that is used for a formula on this tensor."""
    forced = _forced.get()
    if forced in ("auto", "fused"):
        able = _forms(formula).fused is not None and tensor.dtype == torch.float32
        return "fused" if able and (forced == "fused" or triton.usable(tensor)) else "strips"
    return forced


def _forms(formula: object) -> _Forms:
    return _FORMS.get(formula, _NONE)


def upsample(logits: Tensor, size: Size) -> Tensor:
    """Resize bilinearly, corners not aligned: ``(N, C, h, w)`` -> ``(N, C, H, W)``. Source: spec/barm.md section 3."""
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=False)


def sum_pixels(
    formula: Callable[..., Term], logits: Tensor, *maps: Tensor, old: Sequence[Tensor] = (), **options: Any
) -> Term:
    """Sum a formula over all pixels of the labels.

    Args:
        formula: called with the interpolated logits, the interpolated `old`, the maps and the options.
        logits: at feature resolution, ``(N, C, h, w)``; the gradient reaches these alone.
        maps: per pixel, ``(N, H, W)``; at least one, which says the size.
        old: further logits, without gradient, ``(N, K, h, w)``.
        options: passed on.
    """
    chosen, forms = path_of(formula, logits), _forms(formula)
    if chosen == "fused" and forms.fused is not None:
        fast: Term = forms.fused(logits, *maps, **options)
        return fast
    if chosen == "strips" and forms.analytic is not None:
        evaluate: Evaluate = partial(forms.analytic, **options)
        return sum_strips(evaluate, logits, (), maps)[ONE]
    return sum_all(lambda *tensors: {ONE: formula(*tensors, **options)}, logits, *maps, old=old)[ONE]


def sum_all(
    formula: Callable[..., Mapping[str, Term]], logits: Tensor, *maps: Tensor, old: Sequence[Tensor] = ()
) -> dict[str, Term]:
    """Sum a formula of several terms, which share the interpolation. Arguments as for `sum_pixels`."""
    if path_of(formula, logits) == "plain":
        size = (maps[0].shape[1], maps[0].shape[2])
        return dict(formula(upsample(logits, size), *(upsample(o.detach(), size) for o in old), *maps))
    return sum_strips(by_autograd(formula), logits, [o.detach() for o in old], maps)


@torch.no_grad()
def map_pixels(formula: Any, logits: Tensor, *maps: Tensor, size: Size | None = None, **options: Any) -> Any:
    """Apply a formula to every pixel, without gradient.

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
    chosen, fused = path_of(formula, logits), _forms(formula).fused
    if chosen == "plain":
        return formula(upsample(logits, size), *maps, **options)
    if chosen == "fused" and fused is not None:
        return fused(logits, *maps, size=size, **options)
    return map_strips(partial(formula, **options), logits, maps, size)
