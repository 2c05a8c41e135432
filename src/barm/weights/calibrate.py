"""Convert the scores of a softmax network to one probability per class, without labels.

Softmax is the same for logits ``z`` and ``z + o``, whatever the common offset ``o``; a sigmoid per channel is not. So
the offset is free, and it is chosen such that ``sigmoid(a z_c + o)`` comes near the network's own softmax probability
``p_c``. With ``o = w . x + b``, linear in the input ``x`` of the last 1x1 convolution, it folds into that convolution,
and the fit is convex: binary cross-entropy against ``p_c``. One scale ``a > 0`` and one offset for all channels leave
the largest channel the largest, so that nothing the network says is changed; and classes that the images do not show
are treated like the others, since no parameter is theirs alone. docs/teach.md has what was measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from barm.data.base import Sample
from barm.data.images import IMAGE_SUFFIXES, read_image
from barm.data.transforms import EvalTransform, eval_transform
from barm.engine.runtime import Runtime
from barm.errors import UserError
from barm.labels import Lut
from barm.models.heads import GroupedOutput
from barm.words import count

MOST, FEWEST = 64, 4  # images
HELD_OUT = 4  # every fourth image measures
PIXELS = 1024  # of an image's feature map, drawn at random
RIDGE = 1e-6  # on the offset's weights
BINS = 15  # of the calibration error
REPORT = "calibration.json"
MASKS = {"masks", "annotations", "SegmentationClass", "SegmentationClassAug", "SegmentationObject"}
MASKS |= {"saliency", "saliency_map"}


@dataclass(frozen=True)
class Calibration:
    """Distance of the sigmoids from the network's own softmax, on held-out images.

    Attributes:
        fitted: number of images that the parameters were fitted on.
        held_out: number of images on which everything else was measured.
        scale: a.
        excess_before: binary cross-entropy of sigmoid(z) against the softmax, in nats per channel and pixel, beyond the
            softmax's own entropy; 0 where both agree.
        excess_after: the same of the new scores.
        error_before: expected calibration error of sigmoid(z) against the softmax, mean over classes, in 0..1.
        error_after: the same of the new scores.
        agreement: share of the pixels, at the images' size, whose class is that of the original network.
    """

    fitted: int
    held_out: int
    scale: float
    excess_before: float
    excess_after: float
    error_before: float
    error_after: float
    agreement: float


class Activations(NamedTuple):
    """Inputs ``(D, h, w)`` and outputs ``(C, h, w)`` of the network's classifier for one image."""

    inputs: Tensor
    logits: Tensor


def find_images(folder: Path) -> list[Path]:
    """At most `MOST` images below a folder, evenly spread over their names; folders of masks are left out.

    Raises:
        UserError: if there are too few.
    """
    if not folder.is_dir():
        raise UserError(f"no folder {folder}: give a folder of images to --calibrate")
    found = [
        p
        for p in sorted(folder.rglob("*"))
        if p.suffix.lower() in IMAGE_SUFFIXES and not MASKS & set(p.relative_to(folder).parts)
    ]
    if len(found) < FEWEST:
        raise UserError(f"{folder} holds {count(len(found), 'images')}: expected at least {FEWEST} to calibrate on")
    return [found[i] for i in np.linspace(0, len(found) - 1, min(MOST, len(found))).astype(int)]


def calibrate(network: nn.Module, images: Sequence[Path], rt: Runtime, *, side: int) -> Calibration:
    """Fit the offset and fold it into the network's classifier, in place.

    Args:
        network: of step 0 of BARM, with a classifier that was trained with softmax.
        images: files.
        rt: the runtime.
        side: of the images when the network sees them: the short side is resized to this, then cropped; 0
            leaves them as they are.
    """
    network = network.eval().to(rt.device)
    rng, fitting, holding = np.random.default_rng(0), list[Activations](), list[tuple[Activations, tuple[int, int]]]()
    for i, (seen, size) in enumerate(_activations(network, images, rt, side)):
        if i % HELD_OUT == HELD_OUT - 1:
            holding.append((seen, size))
        else:
            drawn = torch.from_numpy(rng.permutation(seen.logits[0].numel())[:PIXELS]).to(rt.device)
            fitting.append(Activations(*(t.flatten(1)[:, drawn] for t in seen)))
    inputs, logits = (torch.cat(parts, dim=1).T.double() for parts in zip(*fitting, strict=True))
    scale, weight, bias = fit(inputs, logits)
    new = [scale * s.logits + (torch.tensordot(weight, s.inputs.double(), 1) + bias) for s, _ in holding]
    old = [seen.logits.double() for seen, _ in holding]
    agreed = [agreement(a, b, size) for a, b, (_, size) in zip(old, new, holding, strict=True)]
    plain, fitted = (torch.cat([t.flatten(1) for t in maps], dim=1).T for maps in (old, new))
    conv = cast(Any, network).classifier.head[0]
    with torch.no_grad():
        wide = scale * conv.weight.double()
        wide[:, :, conv.kernel_size[0] // 2, conv.kernel_size[1] // 2] += weight
        conv.weight.copy_(wide)
        conv.bias.copy_(scale * conv.bias.double() + bias)
    network.cpu()
    target = plain.softmax(dim=1)
    return Calibration(
        len(fitting),
        len(holding),
        float(scale),
        excess(plain, target),
        excess(fitted, target),
        calibration_error(plain, target),
        calibration_error(fitted, target),
        float(np.mean(agreed)),
    )


def _activations(
    network: nn.Module, images: Sequence[Path], rt: Runtime, side: int
) -> Iterator[tuple[Activations, tuple[int, int]]]:
    """Compute the classifier's inputs and outputs for every image, and the size at which the image was seen."""
    nothing: Lut = np.zeros(256, np.uint8)
    for path in images:
        image = read_image(path)
        sample = Sample(image, Image.new("L", image.size), {})
        pixels, _, _ = eval_transform(sample, nothing, EvalTransform(crop=side or None))
        with torch.no_grad():
            out = network(pixels[None].to(rt.device))
            branch = out.branches if isinstance(out, GroupedOutput) else out.branch
            logits = cast(Any, network).classifier.head[0](branch)  # at the classifier's own size
        yield Activations(branch[0], logits[0]), (pixels.shape[1], pixels.shape[2])


def fit(inputs: Tensor, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Fit the scale, and the weights and bias of the common offset, so that the sigmoids are nearest to the softmax.

    Args:
        inputs: of the classifier, ``(N, D)`` float64.
        logits: of the softmax, ``(N, C)`` float64.

    Returns:
        a ``()``, w ``(D,)`` and b ``()``, float64.
    """
    target = logits.softmax(dim=1)
    spread = inputs.std(dim=0) + 1e-6
    scaled = inputs / spread
    log_scale, bias = (torch.zeros((), dtype=torch.float64, device=inputs.device, requires_grad=True) for _ in range(2))
    weight = torch.zeros(inputs.shape[1], dtype=torch.float64, device=inputs.device, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [log_scale, weight, bias], max_iter=300, history_size=20, line_search_fn="strong_wolfe", tolerance_change=1e-10
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        scores = log_scale.exp() * logits + (scaled @ weight + bias)[:, None]
        loss = F.binary_cross_entropy_with_logits(scores, target) + RIDGE * weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return log_scale.exp().detach(), (weight / spread).detach(), bias.detach()


def excess(scores: Tensor, target: Tensor) -> float:
    """Mean binary cross-entropy of ``sigmoid(scores)`` against probabilities, beyond their entropy, ``(N, C)`` each."""
    entropy = F.binary_cross_entropy(target, target)
    return float(F.binary_cross_entropy_with_logits(scores, target) - entropy)


def calibration_error(scores: Tensor, target: Tensor) -> float:
    """Expected calibration error of ``sigmoid(scores)`` against probabilities, ``(N, C)`` each, mean over channels.

    Per channel the pixels are sorted into `BINS` equal bins of the score; in each the mean score is held against the
    mean probability, and the absolute differences are averaged by the number of pixels.
    """
    values, errors = torch.sigmoid(scores), []
    for score, probability in zip(values.T, target.T, strict=True):
        place = (score * BINS).long().clamp(max=BINS - 1)
        apart = torch.zeros(BINS, dtype=score.dtype, device=score.device).index_add_(0, place, score - probability)
        errors.append(float(apart.abs().sum()) / len(score))
    return float(np.mean(errors))


def agreement(softmax: Tensor, scores: Tensor, size: tuple[int, int]) -> float:
    """Share of an image's pixels to which both networks give one class, from logits ``(C, h, w)``.

    The softmax network upsamples its logits, ours its probabilities.
    """
    maps = (softmax, torch.sigmoid(scores))
    old, new = (F.interpolate(m[None], size=size, mode="bilinear", align_corners=False).argmax(1) for m in maps)
    return float((old == new).double().mean())
