"""The data that flows between data sets, networks and methods. Legend of the shape letters used everywhere:

N batch, C channels of the current model, K channels of the previous one (both with background),
H W label size, h w feature size, T steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor


class Batch(NamedTuple):
    """Images and labels of one iteration.

    Attributes:
        image: RGB, ``(N, 3, H, W)`` uint8; the network normalises it.
        label: canonical channels (0 = background, then learning order; 255 = ignore), ``(N, H, W)`` int64.
        extras: further per-pixel maps by name, e.g. ``saliency`` ``(N, H, W)``.
    """

    image: Tensor
    label: Tensor
    extras: Mapping[str, Tensor]

    @property
    def size(self) -> tuple[int, int]:
        """``(H, W)`` of the labels."""
        return self.label.shape[1], self.label.shape[2]

    def part(self, images: slice) -> Batch:
        """Some of the images, with their labels and further maps."""
        return Batch(self.image[images], self.label[images], {k: v[images] for k, v in self.extras.items()})


class Output(Protocol):
    """Output of a network: a NamedTuple with logits and whatever else its method needs."""

    @property
    def logits(self) -> Tensor:
        """Scores before sigmoid or softmax, ``(N, C, h, w)``, at feature resolution."""


def output_part(out: Any, images: slice) -> Any:
    """A network's output for some of the images.

    Args:
        out: maps ``(N, ., h, w)``, tuples of them, and weights, which have fewer dimensions and stay.
        images: which.
    """
    if isinstance(out, tuple):
        parts = [output_part(value, images) for value in out]
        return type(out)(*parts) if hasattr(out, "_fields") else tuple(parts)
    return out[images] if isinstance(out, Tensor) and out.dim() == 4 else out


class Term(NamedTuple):
    """One term of a loss: a sum and a count, which processes can add up.

    The term's value is ``weight * (total + rest) / max(number, 1)``. With data parallelism the engine sums `number`
    over all processes before it divides: two processes with batch b then do exactly what one does with batch 2b,
    also where their numbers of valid pixels differ (docs/parallel.md).

    Attributes:
        total: sum over everything that the mean runs over, scalar with gradient.
        number: how many things were summed (pixels, elements), scalar without gradient.
        weight: factor in the objective.
        rest: a further part of the sum that has no gradient; computed only where the value is to be shown.
    """

    total: Tensor
    number: Tensor
    weight: float = 1.0
    rest: Callable[[], Tensor] | None = None

    @property
    def whole(self) -> Tensor:
        """The sum with the part that has no gradient, detached, scalar."""
        return self.total.detach() if self.rest is None else self.total.detach() + self.rest()

    @property
    def value(self) -> Tensor:
        """The weighted mean within this process, scalar."""
        total = self.total if self.rest is None else self.total + self.rest()
        return self.weight * total / self.number.clamp(min=1)


def added(one: Term, other: Term) -> Term:
    """The term of two parts of a batch together; both have one weight."""
    rests = [term.rest for term in (one, other) if term.rest is not None]
    rest = (lambda: torch.stack([part() for part in rests]).sum()) if rests else None
    return Term(one.total + other.total, one.number + other.number, one.weight, rest)


def total_loss(terms: Mapping[str, Term]) -> Tensor:
    """Sum of the weighted means, scalar."""
    values = [term.value for term in terms.values()]
    return sum(values[1:], start=values[0])
