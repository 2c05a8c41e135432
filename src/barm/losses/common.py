"""Losses and label operations that several methods share. Pure functions; shapes as in `barm.batch`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from barm.batch import Term
from barm.labels import IGNORE
from barm.ops import triton
from barm.ops.strips import Evaluated
from barm.ops.upsampled import ONE, accelerate

ELSEWHERE = -1  # a label that is valid and none of the logits' channels


def count(number: int, like: Tensor) -> Tensor:
    """The number of summed things as a term needs it: scalar int64, made on the tensor's device without waiting for it.

    >>> count(3, torch.zeros(2))
    tensor(3)
    """
    return torch.full((), number, dtype=torch.int64, device=like.device)


def where_counted(mask: Tensor, values: Tensor) -> Tensor:
    """The values where a mask of zeros and ones is 1, else 0, even where a value has overflowed (0 x inf is NaN).

    >>> where_counted(torch.tensor([0.0, 1.0]), torch.tensor([float("inf"), 2.0]))
    tensor([0., 2.])
    """
    return values.masked_fill(mask == 0, 0.0)


def old_channels(x: Tensor, channels: int) -> Tensor:
    """Add the channels that a teacher with this number of channels does not have to channel 0, ``(N, C, h, w)``."""
    if x.shape[1] == channels:
        return x
    return torch.cat([x[:, :1] + x[:, channels:].sum(dim=1, keepdim=True), x[:, 1:channels]], dim=1)


def level_distances(
    new: Sequence[Tensor],
    old: Sequence[Tensor],
    distance: Callable[[Tensor, Tensor], Tensor],
    *,
    share: float,
    weight: float,
    weight_last: float,
) -> Term:
    """Sum the distances of the student's feature maps from the teacher's over levels and images; counts images.

    Args:
        new: the student's maps, ``(B, D, h, w)`` each; logits may have further channels (`old_channels`).
        old: the teacher's.
        distance: per image ``(B,)``, of maps with equal channels.
        share: factor of every level.
        weight: of all levels but the last.
        weight_last: of the last level.
    """
    weights = [weight] * (len(old) - 1) + [weight_last]
    distances = [distance(old_channels(x, z.shape[1]), z).sum() for x, z in zip(new, old, strict=True)]
    total = torch.stack([w * share * d for w, d in zip(weights, distances, strict=True)]).sum()
    return Term(total, count(len(old[0]), total))


def binary_cross_entropy(logits: Tensor, label: Tensor, *, weight: float = 1.0) -> Term:
    r"""Binary cross-entropy of every channel against the one-hot label.

    .. math:: \ell = \sum_c \bigl(\log(1 + e^{x_c}) - [c = y] x_c\bigr)

    summed over channels, averaged over the pixels whose label is not 255.

    Args:
        logits: before the sigmoid, ``(N, C, H, W)`` float.
        label: channels ``0..C-1``, `IGNORE`, or `ELSEWHERE` where no channel is the pixel's, ``(N, H, W)`` int64.
        weight: factor in the objective.

    Returns:
        The sum over valid pixels and their number.

    Source: spec/barm.md section 3 (PB-BCE); spec/ssul.md section 7.1.

    >>> term = binary_cross_entropy(torch.zeros(1, 3, 1, 2), torch.tensor([[[1, 255]]]))
    >>> round(float(term.value), 4), int(term.number)          # 3 log 2, one valid pixel
    (2.0794, 1)
    """
    valid = label != IGNORE
    here = valid & (label != ELSEWHERE)
    positive = logits.gather(1, label.masked_fill(~here, 0).unsqueeze(1)).squeeze(1)
    loss = F.softplus(logits).sum(1) - positive.masked_fill(~here, 0.0)
    return Term(loss.masked_fill(~valid, 0.0).sum(), valid.sum(), weight)


def cross_entropy(logits: Tensor, label: Tensor, *, weight: float = 1.0) -> Term:
    """Softmax cross-entropy averaged over valid pixels; arguments as in `binary_cross_entropy`."""
    loss = F.cross_entropy(logits, label, ignore_index=IGNORE, reduction="sum")
    return Term(loss, (label != IGNORE).sum(), weight)


def focal_loss(logits: Tensor, label: Tensor, *, alpha: float = 1.0, gamma: float = 0.0, weight: float = 1.0) -> Term:
    """Focal loss ``alpha (1 - p)^gamma ce``; the mean runs over *all* pixels. Source: spec/ssul.md section 7.2, Q18."""
    entropy = F.cross_entropy(logits, label, ignore_index=IGNORE, reduction="none")
    loss = alpha * (1 - torch.exp(-entropy)) ** gamma * entropy
    return Term(loss.sum(), count(label.numel(), label), weight)


def sigmoid_distillation(logits: Tensor, old: Tensor, *, weight: float = 1.0) -> Term:
    """Every channel keeps its own probability: BCE with logits against the previous model's sigmoid.

    Summed over channels, averaged over batch and space.

    Args:
        logits: of the student, ``(N, C, h, w)``.
        old: of the previous model, same shape.
        weight: factor in the objective.

    Source: spec/barm.md section 3 (group knowledge distillation); spec/dkd.md sections 4.2 and 4.3.
    """
    loss = F.binary_cross_entropy_with_logits(logits, torch.sigmoid(old), reduction="sum")
    return Term(loss, count(old.shape[0] * old.shape[2] * old.shape[3], old), weight)


def probabilities(logits: Tensor, loss: str) -> Tensor:
    """Convert logits to probabilities as the training loss defines them: sigmoid for ``bce``, else softmax."""
    return torch.sigmoid(logits) if loss == "bce" else torch.softmax(logits, dim=1)


def best_channel(scores: Tensor) -> Tensor:
    """The channel with the largest score per pixel, the first of equals: ``(N, C, H, W)`` -> ``(N, H, W)`` int64."""
    return scores.max(dim=1).indices


def sure_channel(scores: Tensor, *, least: float) -> Tensor:
    """`best_channel`, but `IGNORE` where its score is below `least`.

    >>> sure_channel(torch.tensor([0.2, 0.6]).view(1, 2, 1, 1), least=0.7)
    tensor([[[255]]])
    """
    best, channel = scores.max(dim=1)
    return channel.masked_fill(best < least, IGNORE)


def pseudo_labels(
    logits: Tensor, label: Tensor, *, threshold: float | Tensor, softmax: bool = False, first: int = 1
) -> Tensor:
    """Replace background labels by the previous model's class where its probability is high.

    A pixel gets channel k where its label is below `first`, k >= `first` is the previous model's best channel and that
    channel's probability is at least `threshold`.

    Args:
        logits: of the previous model at label size, ``(N, K, H, W)`` float.
        label: channels, ``(N, H, W)`` int64; not changed.
        threshold: on the probability, of all classes or by channel ``(K,)``; a single 1 accepts nothing.
        softmax: probabilities by softmax instead of sigmoid.
        first: channel of the first class; those below stand for background.

    Returns:
        New labels, ``(N, H, W)`` int64.

    Source: spec/barm.md section 3, spec/ssul.md section 6. The largest sigmoid is the sigmoid of the largest logit, so
    only that one is taken.

    >>> logits = torch.tensor([[-3.0, 3.0]]).view(1, 2, 1, 1)
    >>> pseudo_labels(logits, torch.tensor([[[0]]]), threshold=0.7)
    tensor([[[1]]])
    """
    score, channel = sureness(logits, softmax=softmax)
    return accepted(score, channel, label, threshold=threshold, first=first)


def sureness(logits: Tensor, *, softmax: bool = False) -> tuple[Tensor, Tensor]:
    """The best channel's probability and the channel, as `pseudo_labels` takes them, ``(N, C, H, W)`` -> 2 maps."""
    best, channel = logits.max(dim=1)
    return torch.exp(best - torch.logsumexp(logits, dim=1)) if softmax else torch.sigmoid(best), channel


def accepted(score: Tensor, channel: Tensor, label: Tensor, *, threshold: float | Tensor, first: int) -> Tensor:
    """Replace background labels by classes whose score is high, ``(N, H, W)`` each; see `pseudo_labels`.

    A threshold of 1 accepts nothing: no probability is 1, though those of large logits round to it.

    >>> accepted(torch.tensor([0.7]), torch.tensor([2]), torch.tensor([0]), threshold=0.7, first=1)
    tensor([2])
    """
    if isinstance(threshold, Tensor):
        threshold = threshold[channel]
    elif threshold >= 1:
        return label
    return torch.where((label < first) & (channel >= first) & (score >= threshold), channel, label)


def class_histogram(values: Tensor, channel: Tensor, where: Tensor, *, number: int, bins: int = 100) -> Tensor:
    """Count values by channel in bins of equal width, ``(number, bins)`` int64.

    Args:
        values: in 0..1, ``(N, H, W)``.
        channel: of every pixel, ``(N, H, W)`` int64.
        where: pixels that count, ``(N, H, W)`` bool.
        number: of channels.
        bins: of 0..1; larger values count in the last.

    >>> class_histogram(torch.tensor([0.1, 0.9, 0.9]), torch.tensor([1, 1, 0]), torch.ones(3).bool(), number=2, bins=2)
    tensor([[0, 1],
            [1, 1]])
    """
    place = (values[where] * bins).long().clamp(max=bins - 1)
    return torch.bincount(channel[where] * bins + place, minlength=number * bins).view(number, bins)


def sure_thresholds(histogram: Tensor, *, share: float, most: float) -> Tensor:
    """Thresholds by class which at least a share of its pixels reaches, the surest ones, ``(K,)`` float32.

    Args:
        histogram: of the probabilities of the pixels that are taken for the class, ``(K, bins)`` int64.
        share: of these pixels.
        most: upper bound; the threshold of a class without pixels.

    >>> sure_thresholds(torch.tensor([[0, 2, 1, 1], [0, 0, 0, 5], [0, 0, 0, 0]]), share=0.5, most=0.7)
    tensor([0.5000, 0.7000, 0.7000])
    """
    surest = histogram.flip(1).cumsum(1)
    reached = (surest >= share * surest[:, -1:]).int().argmax(dim=1)
    edge = (histogram.shape[1] - 1 - reached).float() / histogram.shape[1]
    return torch.where(surest[:, -1] == 0, most, edge.clamp(max=most))


def _binary_cross_entropy_on_strip(logits: Tensor, rest: Sequence[Tensor], wanted: bool) -> Evaluated:
    """`binary_cross_entropy` with its gradient, ``sigmoid(x) - [c = y]`` where the label is valid."""
    label = rest[0]
    valid = label != IGNORE
    here = valid & (label != ELSEWHERE)
    channel = label.masked_fill(~here, 0).unsqueeze(1)
    positive = logits.gather(1, channel).squeeze(1)
    softplus = logits.clamp(min=0) + log1p(torch.exp(-logits.abs()))
    loss = softplus.sum(1) - positive.masked_fill(~here, 0.0)
    term = Term(loss.masked_fill(~valid, 0.0).sum(), valid.sum())
    if not wanted:
        return Evaluated({ONE: term}, [None])
    gradient = torch.sigmoid(logits).mul_(valid.unsqueeze(1))
    return Evaluated({ONE: term}, [gradient.scatter_add_(1, channel, -here.to(logits.dtype).unsqueeze(1))])


def log1p(small: Tensor) -> Tensor:
    """``log(1 + x)`` for x in 0..1, with what the sum rounds away added again; faster than torch's on a processor."""
    above = 1 + small
    return torch.addcdiv(torch.log(above), small - (above - 1), above)


def _fused_best_channel(scores: Tensor, *, size: tuple[int, int]) -> Tensor:
    """`best_channel` of scores at feature resolution, in one Triton kernel."""
    return triton.best(scores, size)[1]


def _fused_pseudo_labels(
    logits: Tensor,
    label: Tensor,
    *,
    size: tuple[int, int],
    threshold: float | Tensor,
    softmax: bool = False,
    first: int = 1,
) -> Tensor:
    """`pseudo_labels` of logits at feature resolution, in one Triton kernel."""
    best, channel, total = triton.best(logits, size)
    score = torch.exp(best - total) if softmax else torch.sigmoid(best)
    return accepted(score, channel, label, threshold=threshold, first=first)


accelerate(binary_cross_entropy, analytic=_binary_cross_entropy_on_strip, fused=triton.binary_cross_entropy)
accelerate(best_channel, fused=_fused_best_channel)
accelerate(pseudo_labels, fused=_fused_pseudo_labels)
