"""Where a network is wrong: at the borders of objects, between classes that look alike, and in how sure it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from barm.engine.config import RunConfig
from barm.engine.datasets import Data
from barm.engine.evaluate import measured
from barm.engine.monitor import Monitor
from barm.engine.runtime import Runtime
from barm.labels import IGNORE
from barm.methods.base import Method
from barm.metrics import calibration_error, class_iou, confusion_counts, near_borders, reliability
from barm.ops.upsampled import upsample

BORDER = 3  # pixels on either side
BINS = 15  # of the probability
PAIRS = 5


def details(
    config: RunConfig, rt: Runtime, method: Method[Any, Any], model: nn.Module, data: Data, monitor: Monitor
) -> dict[str, Any]:
    """Measure a step's network on all validation images once more, for what the mean IoU does not tell.

    Returns:
        ``border_miou`` and ``inner_miou``: mean IoU of the pixels at most `BORDER` pixels from another class, and of
        the others, each over the classes that the masks show there; None where there are none. ``border_width`` in
        pixels.
        ``confused``: the `PAIRS` largest shares of a class's pixels that another class has, as ``truth``,
        ``prediction``, ``share``.
        ``calibration_error``: expected, of the probability of the predicted class, over `BINS` equal bins;
        ``mean_probability`` of it, and ``bins`` as ``pixels``, ``accuracy``, ``probability``. Without them where the
        method's scores are no probabilities.
    """
    num_classes = method.step.num_seen
    near, far = (torch.zeros(num_classes, num_classes, dtype=torch.int64, device=rt.device) for _ in range(2))
    bins = torch.zeros(BINS, 3, dtype=torch.float64, device=rt.device)
    network = rt.constant(model)
    for source in data.measured:
        known = torch.tensor(data.known(source, method.step), device=rt.device)
        with measured(config, rt, method, source, data, monitor) as (batches, progress):
            for batch in batches:
                upsampled = upsample(method.upsampled(network(batch.image)), batch.size)
                sure, channel = method.decided(upsampled).max(dim=1)
                label = batch.label.where((batch.label != 0) | known[channel], IGNORE)
                border = near_borders(batch.label, BORDER)
                near += confusion_counts(channel, label.where(border, IGNORE), num_classes)
                far += confusion_counts(channel, label.where(~border, IGNORE), num_classes)
                bins += reliability(sure.clamp(max=1), channel, label, num_classes, BINS)
                progress()
    near, far, bins = (rt.all_sum(part).cpu() for part in (near, far, bins))
    names = [data.train.class_names[i] for i in (0, *method.step.seen)]
    found = {
        "border_width": BORDER,
        "border_miou": _shown_miou(near),
        "inner_miou": _shown_miou(far),
        "confused": confused(near + far, names),
    }
    return found | (_calibration(bins) if method.config.probable else {})


def confused(counts: Tensor, names: Sequence[str], number: int = PAIRS) -> list[dict[str, Any]]:
    """The largest shares of a class's pixels that are predicted as one other class, largest first.

    >>> confused(torch.tensor([[8, 2], [1, 1]]), ["background", "car"], 1)
    [{'truth': 'car', 'prediction': 'background', 'share': 0.5}]
    """
    shares = counts.double() / counts.sum(1, keepdim=True).clamp(min=1)
    shares.fill_diagonal_(0)
    best = shares.flatten().topk(min(number, shares.numel()))
    places = ((float(share), divmod(int(place), len(names))) for share, place in zip(*best, strict=True))
    return [{"truth": names[t], "prediction": names[p], "share": share} for share, (t, p) in places if share > 0]


def _shown_miou(counts: Tensor) -> float | None:
    """Mean IoU over the classes that the masks show."""
    shown = (counts.sum(1) > 0).numpy()
    return float(class_iou(counts)[shown].mean()) if shown.any() else None


def _calibration(bins: Tensor) -> dict[str, Any]:
    pixels, right, sure = bins.unbind(1)
    number = pixels.clamp(min=1)
    rows = zip(pixels.long().tolist(), (right / number).tolist(), (sure / number).tolist(), strict=True)
    return {
        "calibration_error": calibration_error(bins),
        "mean_probability": float(sure.sum() / pixels.sum().clamp(min=1)),
        "bins": [dict(zip(("pixels", "accuracy", "probability"), row, strict=True)) for row in rows],
    }
