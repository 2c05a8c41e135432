"""Sums and maps over the labels' pixels without a tensor of logits at the labels' size.

Bilinear resizing is two small matrix products, one along each axis. A strip of rows is interpolated and a formula is
applied to it. Only the result is kept: a sum, the gradient at the logits' own size, or one number per pixel. The
formulas are those of `barm.losses`; which path is taken is decided in `barm.ops.upsampled`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from barm.batch import Term

STRIP_BYTES = {"cpu": 4 << 20, "cuda": 256 << 20}  # of interpolated logits at a time
Size = tuple[int, int]
Pixels = Callable[..., Mapping[str, Term]]  # formula on (N, C, rows, W) logits and (N, rows, W) maps
Evaluate = Callable[[Tensor, Sequence[Tensor], bool], "Evaluated"]


class Evaluated(NamedTuple):
    """Result of a formula on one strip: its terms, and the gradient of each total by the logits (or None)."""

    terms: Mapping[str, Term]
    gradients: Sequence[Tensor | None]


class Strip(NamedTuple):
    """A range of rows in some images.

    Attributes:
        images: range of the images.
        rows: range of the labels' rows.
        taps: rows of the logits that they are interpolated from, counted from the last.
        weights: of the taps, ``(rows, taps)``.
    """

    images: slice
    rows: slice
    taps: slice
    weights: Tensor

    def interpolate(self, wide: Tensor) -> Tensor:
        """Interpolate ``(n, C, h, W)`` -> ``(n, C, rows, W)``."""
        return torch.matmul(self.weights, wide[:, :, self.taps])

    def add_gradient(self, wide: Tensor, gradient: Tensor) -> None:
        """Add a gradient ``(n, C, rows, W)`` to that of the strip's source rows `wide`, in place."""
        wide[:, :, self.taps] += torch.matmul(self.weights.T, gradient)


@lru_cache(maxsize=64)
def interpolation(source: int, target: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Bilinear weights along one axis, corners not aligned, ``(target, source)``, the last source first.

    `torch` multiplies the second of two taps first and adds the first with one rounding. Products of matrices do the
    same, bit for bit, where the taps come in reverse; so here every axis of logits is turned round.

    >>> interpolation(2, 4, torch.float32, torch.device("cpu"))[1]
    tensor([0.2500, 0.7500])
    """
    with torch.inference_mode(False):
        exact = torch.float64 if dtype == torch.float64 else torch.float32
        scale = torch.tensor(source / target, dtype=exact).double()
        at = ((torch.arange(target, dtype=torch.float64) + 0.5) * scale - 0.5).to(exact).clamp(min=0)  # rounded once
        low = at.floor().long().clamp(max=source - 1)
        share = (at - low).clamp(max=1)
        matrix = torch.zeros(target, source, dtype=exact)
        matrix[torch.arange(target), low] += 1 - share
        matrix[torch.arange(target), (low + 1).clamp(max=source - 1)] += share
        return matrix.to(device=device, dtype=dtype).flip(1)


def strips(logits: Tensor, size: Size, channels: int) -> Iterator[Strip]:
    """Split a batch into strips: image by image on a processor, all images at once on a GPU.

    Args:
        logits: ``(N, C, h, w)``; device, type and shape count.
        size: of the labels.
        channels: number that is interpolated at a time; the more, the smaller the strips.
    """
    number, _, source, _ = logits.shape
    height, width = size
    together = number if logits.is_cuda else 1
    budget = STRIP_BYTES["cuda" if logits.is_cuda else "cpu"]
    rows = max(1, min(height, budget // (together * channels * width * logits.element_size())))
    matrix = interpolation(source, height, logits.dtype, logits.device)
    for image in range(0, number, together):
        for top in range(0, height, rows):
            bottom = min(top + rows, height)
            first, end = _tap(top, source, height), min(source, _tap(bottom - 1, source, height) + 3)
            taps = slice(source - end, source - first)
            yield Strip(slice(image, image + together), slice(top, bottom), taps, matrix[top:bottom, taps])


def _tap(row: int, source: int, target: int) -> int:
    """First source row of a row, or the one before it, since rounding may differ from that of the weights."""
    return max(0, int((row + 0.5) * source / target - 0.5) - 1)


def widen(tensor: Tensor, width: int) -> Tensor:
    """Interpolate along the rows only, ``(n, C, h, w)`` -> ``(n, C, h, W)``, the last row first."""
    weights = interpolation(tensor.shape[3], width, tensor.dtype, tensor.device)
    return torch.matmul(tensor.flip((2, 3)), weights.T)


def narrow(gradient: Tensor, source: int) -> Tensor:
    """Reverse `widen` for gradients, ``(n, C, h, W)`` -> ``(n, C, h, w)``."""
    weights = interpolation(source, gradient.shape[3], gradient.dtype, gradient.device)
    return torch.matmul(gradient, weights).flip((2, 3))


def by_autograd(formula: Pixels) -> Evaluate:
    """Evaluate a formula on a strip with autograd."""

    def evaluate(logits: Tensor, rest: Sequence[Tensor], wanted: bool) -> Evaluated:
        with torch.set_grad_enabled(wanted):
            logits = logits.detach().requires_grad_(wanted)
            terms = formula(logits, *rest)
            if not wanted:
                return Evaluated(terms, [None] * len(terms))
            gradients = [
                torch.autograd.grad(t.total, logits, retain_graph=True, allow_unused=True)[0]
                if t.total.requires_grad
                else None
                for t in terms.values()
            ]
        return Evaluated(terms, gradients)

    return evaluate


def sum_strips(evaluate: Evaluate, logits: Tensor, old: Sequence[Tensor], maps: Sequence[Tensor]) -> dict[str, Term]:
    """Sum the terms of a formula over all pixels. The gradient reaches `logits` alone.

    Args:
        evaluate: the formula, as `by_autograd` or by hand.
        logits: ``(N, C, h, w)``.
        old: further logits without gradient, ``(N, K, h, w)``.
        maps: one number per pixel, ``(N, H, W)``; at least one.
    """
    term_weights: dict[str, float] = {}
    made = _StripSums.apply(logits, evaluate, term_weights, tuple(old), tuple(maps))
    count = len(term_weights)
    pairs = zip(term_weights.items(), made[:count], made[count:], strict=True)
    return {name: Term(total, number, weight) for (name, weight), total, number in pairs}


class _StripSums(torch.autograd.Function):
    """Autograd function that returns totals, then counts.

    Gradients are computed in the forward pass and only scaled in the backward pass.
    """

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        evaluate: Evaluate,
        term_weights: dict[str, float],
        old: tuple[Tensor, ...],
        maps: tuple[Tensor, ...],
    ) -> tuple[Tensor, ...]:
        size = (maps[0].shape[1], maps[0].shape[2])
        wanted, width = ctx.needs_input_grad[0], size[1]
        totals: dict[str, Tensor] = {}
        numbers: dict[str, Tensor] = {}
        gradients: list[Tensor] = []
        wide: list[Tensor] = []
        wide_gradients: list[Tensor] = []
        images: slice | None = None
        for strip in strips(logits, size, logits.shape[1] + sum(o.shape[1] for o in old)):
            if strip.images != images:
                _collect(gradients, wide_gradients, images, logits)
                images, wide_gradients = strip.images, []
                wide = [widen(t[images], width) for t in (logits, *old)]
            new, *others = (strip.interpolate(w) for w in wide)
            found = evaluate(new, [*others, *(m[strip.images, strip.rows] for m in maps)], wanted)
            for name, term in found.terms.items():
                term_weights[name] = term.weight
                totals[name] = totals[name] + term.total.detach() if name in totals else term.total.detach()
                numbers[name] = numbers[name] + term.number if name in numbers else term.number
            if wanted:
                wide_gradients = wide_gradients or [torch.zeros_like(wide[0]) for _ in found.terms]
                for sum_, gradient in zip(wide_gradients, found.gradients, strict=True):
                    if gradient is not None:
                        strip.add_gradient(sum_, gradient)
        _collect(gradients, wide_gradients, images, logits)
        ctx.save_for_backward(*gradients)
        ctx.mark_non_differentiable(*numbers.values())
        return (*totals.values(), *numbers.values())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        gradients = ctx.saved_tensors
        parts = [g * o for g, o in zip(gradients, outer, strict=False)]
        return (sum(parts[1:], start=parts[0]), None, None, None, None)


def _collect(gradients: list[Tensor], wide: list[Tensor], images: slice | None, logits: Tensor) -> None:
    """Reduce the gradients of some images to the logits' size."""
    if wide and not gradients:
        gradients.extend(torch.zeros_like(logits) for _ in wide)
    for whole, part in zip(gradients, wide, strict=False):
        whole[images] = narrow(part, logits.shape[3])


@torch.no_grad()
def map_strips(
    formula: Callable[..., Any], logits: Tensor, maps: Sequence[Tensor], size: Size
) -> Tensor | tuple[Tensor, ...]:
    """Apply a formula to every pixel, without gradient.

    Args:
        formula: on ``(n, C, rows, W)`` logits and ``(n, rows, W)`` maps; gives one map or a tuple of them.
        logits: ``(N, C, h, w)``.
        maps: ``(N, H, W)``.
        size: ``(H, W)``.

    Returns:
        The map or a tuple of the maps, ``(N, H, W)``.
    """
    results: list[Tensor] = []
    images, wide = None, logits
    for strip in strips(logits, size, logits.shape[1]):
        if strip.images != images:
            images, wide = strip.images, widen(logits[strip.images], size[1])
        made = formula(strip.interpolate(wide), *(m[strip.images, strip.rows] for m in maps))
        parts = (made,) if isinstance(made, Tensor) else tuple(made)
        if not results:
            results = [p.new_empty(logits.shape[0], *size) for p in parts]
        for whole, part in zip(results, parts, strict=True):
            whole[strip.images, strip.rows] = part
    return results[0] if isinstance(made, Tensor) else tuple(results)


@torch.no_grad()
def map_views(formula: Callable[..., Tensor], views: Sequence[Tensor], size: Size) -> Tensor:
    """Apply a formula to every pixel of several maps of the same images at different resolutions.

    Args:
        formula: called with all maps interpolated, ``(n, C, rows, W)`` each; gives one map ``(n, rows, W)``.
        views: ``(N, C, h_i, w_i)`` each.
        size: ``(H, W)``.

    Returns:
        The map, ``(N, H, W)``.
    """
    channels = sum(view.shape[1] for view in views)
    result: Tensor | None = None
    images, wide = None, list[Tensor]()
    for same in zip(*(strips(view, size, channels) for view in views), strict=True):
        if same[0].images != images:
            images = same[0].images
            wide = [widen(view[images], size[1]) for view in views]
        made = formula(*(strip.interpolate(w) for strip, w in zip(same, wide, strict=True)))
        result = made.new_empty(views[0].shape[0], *size) if result is None else result
        result[images, same[0].rows] = made
    if result is None:
        raise ValueError("map_views needs at least one view")
    return result
