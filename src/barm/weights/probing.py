"""Find out by trying how another library's network behaves: where it ends, which sizes it takes, what follows."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from barm.errors import UserError
from barm.models.adopted import AdoptedConfig, watched
from barm.models.families.logits import logits_of
from barm.weights.foreign.model import ForeignModel
from barm.weights.output_classes import Activation

SIDES = (160, 192)  # of the image that networks are tried on, made divisible
SMALL = (32, 64, 96, 128)  # sides of images that are tried; files of ours promise to take the first
ENDINGS: dict[str, tuple[Activation, Callable[[Tensor], Tensor]]] = {
    "softmax": ("softmax", lambda t: t.softmax(dim=1)),
    "log_softmax": ("softmax", lambda t: t.log_softmax(dim=1)),
    "sigmoid": ("sigmoid", torch.sigmoid),
}
CLOSE = 1e-5  # between probabilities


def last_convolution(found: ForeignModel) -> nn.Conv2d:
    """The convolution that makes way for our classifier.

    Raises:
        UserError: if it is no convolution of stride 1 that keeps the size.
    """
    if isinstance(found.module, torch.jit.ScriptModule):
        raise UserError(f"{found.title} is compiled by torch.jit: give the module that it was made from")
    if not found.classifier:
        raise UserError(f"{found.title} has no path to its last convolution: give it, such as 'head.4'")
    try:
        conv = found.module.get_submodule(found.classifier)
    except AttributeError:
        convolutions = [name for name, m in found.module.named_modules() if isinstance(m, nn.Conv2d)]
        known = f"its last convolutions are {', '.join(convolutions[-3:])}" if convolutions else "it has no convolution"
        raise UserError(f"{found.title} has no module '{found.classifier}': {known}") from None
    if not isinstance(conv, nn.Conv2d):
        raise UserError(f"'{found.classifier}' is a {type(conv).__name__}: expected the last convolution, an nn.Conv2d")
    paths = [name for name, m in found.module.named_modules(remove_duplicate=False) if m is conv]
    if len(paths) > 1:
        raise UserError(f"{found.title} has one convolution in several places ({', '.join(paths)}): leave it one name")
    k = conv.kernel_size[0]
    keeps = conv.padding in ((k // 2, k // 2), "same") and conv.padding_mode == "zeros"
    plain = conv.stride == conv.dilation == (1, 1) and conv.groups == 1
    if conv.kernel_size != (k, k) or not k % 2 or not keeps or not plain:
        raise UserError(
            f"'{found.classifier}' is {conv}: expected a convolution of stride 1 with a square, odd window that keeps "
            "the size, such as nn.Conv2d(64, 21, 1)"
        )
    return conv


def example(divisor: int, more: tuple[int, int] = (0, 0)) -> Tensor:
    """An image of noise whose sides are odd multiples of a number, plus `more` of it, ``(1, 3, H, W)``."""
    size = [(side // divisor // 2 * 2 + 1 + m) * divisor for side, m in zip(SIDES, more, strict=True)]
    return torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def divisor_of(found: ForeignModel) -> int:
    """The number that must divide the sides of a network's images: what is said of it, or twice that, and so on.

    Raises:
        UserError: if it takes images of no such size.
    """
    told, divisor = "", found.divisor
    while not told or divisor <= min(SIDES):
        try:
            found.module(example(divisor))
            found.module(example(divisor, (2, 4)))  # one size may fit by chance
        except Exception as error:  # whatever another's network raises for a size
            told = told or short(error)
            divisor *= 2
        else:
            return divisor
    size = " x ".join(str(side) for side in example(found.divisor).shape[2:])
    raise UserError(
        f"{found.title} takes no image of {size} pixels ({told}): expected a network for images (N, 3, H, W) of "
        "any size, or of those that a number divides (divisor=...)"
    )


def describe(
    found: ForeignModel, kind: Activation, outputs: tuple[int, ...], background: Literal["row", "threshold", "none"]
) -> AdoptedConfig:
    """What our network has to know of the other.

    Args:
        found: the network, with a divisor that suits it.
        kind: what turns its logits into probabilities.
        outputs: as in `AdoptedConfig`.
        background: likewise.

    Raises:
        UserError: if its classifier is not the last convolution, or it returns probabilities that are made otherwise.
    """
    conv, image = last_convolution(found), example(found.divisor)
    inner, logits = watched(found.module, found.classifier, image)
    if inner.shape[:2] != logits.shape[:2]:
        raise UserError(
            f"'{found.classifier}' gives {inner.shape[1]} channels, the network {logits.shape[1]}: give the path of "
            "its last convolution"
        )
    return AdoptedConfig(
        family=found.family,
        architecture=json.dumps(found.architecture),
        classifier=found.classifier,
        width=conv.in_channels,
        kernel=conv.kernel_size[0],
        outputs=outputs,
        background=background,
        tail=not _enlarges(found, kind, inner, logits, image.shape[2:]),
        divisor=found.divisor,
        least=_least_side(found.module, found.divisor),
        handed=_channels_handed(found, image, inner.shape[1]),
    )


def _enlarges(found: ForeignModel, kind: Activation, inner: Tensor, logits: Tensor, size: torch.Size) -> bool:
    """Whether a network returns its classifier's logits, enlarged or not, or the probabilities of these.

    Raises:
        UserError: if it returns probabilities that are made in another way.
    """
    enlarged = F.interpolate(inner, size, mode="bilinear", align_corners=False)
    candidates = [t for t in (inner, enlarged) if t.shape == logits.shape]
    if any(torch.equal(t, logits) for t in candidates):
        return True
    ending, wanted = _ending(candidates, logits) or ("", kind)
    if wanted != kind and logits.shape[1] > 1:
        raise UserError(f"{found.title} ends in a {ending}, found the activation '{kind}': expected '{wanted}'")
    probable = float(logits.min()) >= 0 and float(logits.max()) <= 1 and not 0 <= float(inner.min()) <= 1
    if not ending and probable:
        raise UserError(
            f"{found.title} returns values in 0..1, which may be probabilities: expected logits; leave out what "
            f"follows '{found.classifier}' but its enlargement, such as nn.Softmax or nn.ReLU"
        )
    return bool(ending)


def _ending(candidates: Sequence[Tensor], logits: Tensor) -> tuple[str, Activation] | None:
    """The function of `ENDINGS` that makes a network's result of one of the candidates, and its activation; or None."""
    return next(
        (
            (name, activation)
            for name, (activation, function) in ENDINGS.items()
            if any(torch.allclose(function(t), logits, atol=CLOSE) for t in candidates)
        ),
        None,
    )


@torch.no_grad()
def check_growth(found: ForeignModel, *, unchanged: bool) -> None:
    """Check that what follows the classifier works for more channels.

    Args:
        found: the network.
        unchanged: the old channels have to stay as they are.

    Raises:
        UserError: if it does not.
    """
    image = example(found.divisor)
    channels = last_convolution(found).out_channels
    _, before = watched(found.module, found.classifier, image)
    try:
        after = _with_channels(found, image, lambda out: torch.cat([out, out[:, :1]], dim=1))
        fits = after.shape[1] == channels + 1
        told = f"with one more it returns {after.shape[1]}"
        if fits and unchanged:
            fits = torch.allclose(after[:, :channels], before, rtol=1e-4, atol=1e-4)
            told = "one more changes what it returns for the old ones"
    except Exception as error:  # whatever another's network raises
        fits, told = False, short(error)
    if not fits:
        raise UserError(
            f"what {found.title} does after '{found.classifier}' depends on its {channels} channels ({told}): write it "
            "so that any number of channels can follow, each by itself, or extend the network with --recipe folder/barm"
        )


@torch.no_grad()
def _channels_handed(found: ForeignModel, image: Tensor, channels: int) -> int:
    """How many channels the rest of a network must get where nothing of what it returns is used."""
    try:
        _with_channels(found, image, lambda out: out[:, :1])
    except Exception:  # whatever another's network raises
        return channels
    return 1


def _with_channels(found: ForeignModel, image: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    hook = found.module.get_submodule(found.classifier).register_forward_hook(lambda _m, _i, out: change(out))
    try:
        return logits_of(found.module(image))
    finally:
        hook.remove()


@torch.no_grad()
def _least_side(module: nn.Module, divisor: int) -> int:
    """The first of some small sides, made divisible, of which a network takes a square image.

    It is 1 for the first of all, since what takes that is asked for nothing more, and that of `SIDES` if it takes none.
    """
    for side in SMALL:
        try:
            module(torch.zeros(1, 3, *[-(-side // divisor) * divisor] * 2))
        except Exception:  # whatever another's network raises
            continue
        return 1 if side == SMALL[0] else side
    return min(SIDES)


def short(error: Exception) -> str:
    """What another library's exception says, on one line."""
    return " ".join(str(error).split())[:120] or type(error).__name__
