"""Take a trained network of another library over as step 0 of a run.

Its last convolution makes way for a classifier of ours with the same weights, so that it gives the scores that it gave
before. A method whose scores are a probability per class needs a softmax network to be calibrated
(`barm.weights.calibrate`); a method with softmax does not.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from barm.config import load_config
from barm.data.class_names import BACKGROUND, plain
from barm.data.palette import id_palette
from barm.engine.checkpoint.directory import RunDirectory
from barm.engine.checkpoint.network import describe_classes
from barm.engine.config import RunConfig
from barm.engine.runtime import Runtime
from barm.errors import UserError
from barm.escaping import normal
from barm.models.adopted import NEVER, NO_ROW, AdoptedConfig, watched
from barm.models.heads import GroupedHead, PlainHead
from barm.weights.calibrate import REPORT, Calibration, calibrate, find_images
from barm.weights.foreign.model import Activation, ForeignModel
from barm.weights.hub import is_address
from barm.words import count

RECIPE = "folder/barm"
TOLERANCE = 1e-4  # of the largest logit
SIDES = (160, 192)  # of the image on which both networks are compared, made divisible
SMALL = (32, 64, 96, 128)  # sides of images that are tried; files of ours promise to take the first
NO_BACKGROUND = "none"  # for a network without this class


@dataclass(frozen=True)
class Classes:
    """Classes of a network, background first.

    Attributes:
        names: of them.
        outputs: row of the classifier for each; -1 for a background without one.
        background: as in `AdoptedConfig`.
    """

    names: tuple[str, ...]
    outputs: tuple[int, ...]
    background: Literal["row", "threshold", "none"]


@dataclass(frozen=True)
class ImportedModel:
    """An adopted network.

    Attributes:
        run: folder of the run.
        title: what the network is.
        classes: its classes.
        config: of the run.
        calibration: how well the new scores follow the softmax, where they had to be fitted.
        notes: remarks for the user.
    """

    run: Path
    title: str
    classes: Classes
    config: RunConfig
    calibration: Calibration | None
    notes: tuple[str, ...]


def classes_of(
    outputs: int, names: Sequence[str], background: str | None, activation: Activation, what: str
) -> Classes:
    """Decide which output is which class.

    Args:
        outputs: of the network.
        names: of its outputs in their order; background may be left out if it is output 0.
        background: name of the background, or ``none``; by default the one that is called so.
        activation: of the network.
        what: name of the network for error messages.

    Raises:
        UserError: if the names are not as many as the outputs, or not all different.
    """
    own = tuple(map(normal, names))
    called = [n for n in own if n == background] or [n for n in own if plain(n) in BACKGROUND]
    if len(set(own)) != len(own):
        twice = next(n for n in own if own.count(n) > 1)
        raise UserError(f"the class names of {what} hold '{twice}' twice: expected different ones")
    if background not in (None, NO_BACKGROUND) and background not in own:
        raise UserError(f"{what} has no class '{background}': give one of {', '.join(own[:12])}, or none")
    if outputs == 1:
        foreground = [n for n in own if n not in called]
        if len(foreground) == 1:
            return Classes(("background", *foreground), (NO_ROW, 0), "threshold")
    elif background != NO_BACKGROUND and called and len(own) == outputs:
        at = own.index(called[0])
        rest = [i for i in range(outputs) if i != at]
        return Classes(("background", *(own[i] for i in rest)), (at, *rest), "row")
    elif background != NO_BACKGROUND and not called and len(own) == outputs - 1:
        return Classes(("background", *own), tuple(range(outputs)), "row")
    elif len(own) == outputs:
        kind: Literal["threshold", "none"] = "threshold" if activation == "sigmoid" else "none"
        if "background" not in own:
            return Classes(("background", *own), (NO_ROW, *range(outputs)), kind)
    expected = "1 name" if outputs == 1 else f"{outputs} names, or {outputs - 1} if output 0 is background"
    raise UserError(
        f"{what} has {count(outputs, 'outputs')}, found {count(len(own), 'class names')}: expected {expected}"
    )


def take(
    found: ForeignModel,
    out: Path | str,
    *,
    names: Sequence[str] | None = None,
    background: str | None = None,
    activation: Activation | None = None,
    images: Path | str | None = None,
    recipe: str = RECIPE,
    overrides: Sequence[str] = (),
    origin: str = "",
) -> ImportedModel:
    """Write a network as a finished run of one step.

    Args:
        found: the network.
        out: the run's folder, new.
        names: of its outputs; by default what its file says.
        background: name of its background, or ``none``.
        activation: that turns its logits into probabilities; by default what its file says, else softmax.
        images: images like those the network is used on, where it must be calibrated; labels are not needed.
        recipe: of the method that goes on with it.
        overrides: ``table.key=value`` over the recipe.
        origin: where the network comes from, for the run's record.

    Raises:
        UserError: if the network cannot be split, or the method cannot go on with it; nothing is written then.
    """
    conv = last_convolution(found)
    kind = activation or found.activation or "softmax"
    own = found.names if names is None else tuple(names)
    if own is None and conv.out_channels == 1:
        own = ("object",)
    if own is None:
        raise UserError(
            f"{found.title} has {count(conv.out_channels, 'outputs')}, but its files do not name them: give the names "
            "of its classes in the outputs' order with --class-names FILE, one per line"
        )
    classes = classes_of(conv.out_channels, own, background, kind, found.title)
    found = replace(found, divisor=divisor_of(found))
    adopted = _described(found, conv, classes).model_copy(update={"origin": origin if is_address(origin) else ""})
    config = _configured(found, adopted, classes, recipe, overrides)
    plan = config.task.plan(classes.names, config.seed)
    network = config.method.build(plan[0], config.model).build_model()
    fitted = _needs_calibration(config, network, kind, found, single=conv.out_channels == 1)
    if fitted and images is None:
        raise UserError(
            f"a network trained with softmax needs --calibrate DIR to go on with {config.method.name}: some tens of "
            "images like those it is used on, without labels; the images of the new classes will do"
        )
    files = find_images(Path(images)) if fitted and images is not None else []
    load_weights(network, found, classes, mirrored=config.method.loss == "bce" and conv.out_channels == 1)
    _check_same(network, found, classes)
    directory, calibration = RunDirectory(Path(out)), None
    try:
        record = {"imported": origin or found.title, "network": found.title}
        directory.open(config, {**record, **({"calibrated_on": str(images)} if fitted else {})}, resume=False)
        if fitted:
            calibration = calibrate(network, files, Runtime(config.runtime), side=config.evaluation.crop)
        described = describe_classes(config, plan, plan[0], classes.names, id_palette())
        directory.save_step(0, network.state_dict(), described, None, None)
        if calibration is not None:
            directory.add(0, {REPORT: {"images": str(images), **asdict(calibration)}})
    finally:
        directory.close()
    return ImportedModel(Path(out), found.title, classes, config, calibration, found.notes)


def last_convolution(found: ForeignModel) -> nn.Conv2d:
    """The convolution that makes way for our classifier.

    Raises:
        UserError: if it is no convolution of stride 1 that keeps the size.
    """
    try:
        conv = found.module.get_submodule(found.classifier)
    except AttributeError:
        convolutions = [name for name, m in found.module.named_modules() if isinstance(m, nn.Conv2d)]
        known = f"its last convolutions are {', '.join(convolutions[-3:])}" if convolutions else "it has no convolution"
        raise UserError(f"{found.title} has no module '{found.classifier}': {known}") from None
    if not isinstance(conv, nn.Conv2d):
        raise UserError(f"'{found.classifier}' is a {type(conv).__name__}: expected the last convolution, an nn.Conv2d")
    k = conv.kernel_size[0]
    keeps = conv.padding in ((k // 2, k // 2), "same") and conv.padding_mode == "zeros"
    plain = conv.stride == conv.dilation == (1, 1) and conv.groups == 1
    if conv.kernel_size != (k, k) or not k % 2 or not keeps or not plain:
        raise UserError(
            f"'{found.classifier}' is {conv}: expected a convolution of stride 1 with a square, odd window that keeps "
            "the size, such as nn.Conv2d(64, 21, 1)"
        )
    return conv


def example(divisor: int) -> Tensor:
    """An image of noise whose sides are odd multiples of a number, ``(1, 3, H, W)``."""
    size = [side // divisor // 2 * 2 * divisor + divisor for side in SIDES]
    return torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def divisor_of(found: ForeignModel) -> int:
    """The number that must divide the sides of a network's images: what is said of it, or twice that, and so on.

    Raises:
        UserError: if it takes images of no such size.
    """
    told = ""
    divisor = found.divisor
    while divisor <= min(SIDES):
        try:
            found.module(example(divisor))
        except Exception as error:  # whatever another's network raises for a size
            told = told or " ".join(str(error).split())[:120]
            divisor *= 2
        else:
            return divisor
    size = " x ".join(map(str, SIDES))
    raise UserError(
        f"{found.title} takes no image of about {size} pixels ({told}): expected a network for images (N, 3, H, W) of "
        "any size, or of those that a number divides (divisor=...)"
    )


def _described(found: ForeignModel, conv: nn.Conv2d, classes: Classes) -> AdoptedConfig:
    image = example(found.divisor)
    inner, logits = watched(found.module, found.classifier, image)
    if inner.shape[:2] != logits.shape[:2]:
        raise UserError(
            f"'{found.classifier}' gives {inner.shape[1]} channels, the network {logits.shape[1]}: give the path of "
            "its last convolution"
        )
    enlarged = F.interpolate(inner, image.shape[2:], mode="bilinear", align_corners=False)
    same = any(a.shape == logits.shape and torch.equal(a, logits) for a in (inner, enlarged))
    return AdoptedConfig(
        family=found.family,
        architecture=json.dumps(found.architecture),
        classifier=found.classifier,
        width=conv.in_channels,
        kernel=conv.kernel_size[0],
        outputs=classes.outputs,
        background=classes.background,
        tail=not same,
        divisor=found.divisor,
        least=_least_side(found.module, found.divisor),
    )


@torch.no_grad()
def _least_side(module: nn.Module, divisor: int) -> int:
    """Side of the smallest of some square images that a network takes; 1 if it takes them all."""
    for side in SMALL:
        try:
            module(torch.zeros(1, 3, *[-(-side // divisor) * divisor] * 2))
        except Exception:  # whatever another's network raises
            continue
        return 1 if side == SMALL[0] else side
    return min(SIDES)


def _configured(
    found: ForeignModel, adopted: AdoptedConfig, classes: Classes, recipe: str, overrides: Sequence[str]
) -> RunConfig:
    model = {
        "backbone": found.title,
        "pretrained": False,
        **found.rule._asdict(),
        "adopted": adopted.model_dump(mode="json"),
    }
    task = {"groups": [list(classes.names[1:])], "name": None}
    return load_config(recipe, overrides, {"model": model, "task": task, "data": {"layout": "auto"}})


def _needs_calibration(
    config: RunConfig, network: nn.Module, kind: Activation, found: ForeignModel, *, single: bool
) -> bool:
    """Whether a method needs the network calibrated.

    Raises:
        UserError: if it cannot go on with the network at all.
    """
    method = config.method
    if not isinstance(network.classifier, GroupedHead | PlainHead):
        raise UserError(
            f"{method.name} cannot go on with {found.title}: its classifier is made otherwise from the first step on; "
            "choose --recipe folder/barm, mib, lwf, ilt or finetune"
        )
    if method.loss == "focal" or (method.loss == "ce" and kind == "sigmoid" and not single):
        raise UserError(
            f"{found.title} asks every class by itself (sigmoid), {method.name} has loss '{method.loss}': choose a "
            "method with loss 'bce', such as --recipe folder/barm"
        )
    return method.loss == "bce" and kind == "softmax"


@torch.no_grad()
def load_weights(network: nn.Module, found: ForeignModel, classes: Classes, *, mirrored: bool) -> None:
    """Give our network the weights of the other, in place.

    Args:
        network: of step 0.
        found: the other.
        classes: its classes.
        mirrored: the background's logit is minus that of the one class; otherwise it is 0 where it has no row.
    """
    conv = last_convolution(found)
    rows = list(classes.outputs)
    weight = conv.weight[[max(r, 0) for r in rows]].clone()
    bias = (torch.zeros(conv.out_channels) if conv.bias is None else conv.bias)[[max(r, 0) for r in rows]].clone()
    if rows[0] == NO_ROW:
        weight[0], bias[0] = (-weight[1], -bias[1]) if mirrored else (0, NEVER if classes.background == "none" else 0)
    skipped = f"{found.classifier}."
    own = {f"backbone.{k}": v for k, v in found.module.state_dict().items() if not k.startswith(skipped)}
    network.load_state_dict({**own, "classifier.head.0.weight": weight, "classifier.head.0.bias": bias})


@torch.no_grad()
def _check_same(network: nn.Module, found: ForeignModel, classes: Classes) -> None:
    """Compare both networks on noise: our classes must have the scores of their outputs."""
    image = example(found.divisor)
    inner, logits = watched(found.module.eval(), found.classifier, image)
    made = network.eval()(image).logits
    theirs = logits if made.shape[2:] == logits.shape[2:] else inner
    pairs = [(channel, row) for channel, row in enumerate(classes.outputs) if row != NO_ROW]
    ours, theirs = (t[:, list(p)] for t, p in zip((made, theirs), zip(*pairs, strict=True), strict=True))
    far = float((ours - theirs).abs().max())
    if not far <= TOLERANCE * max(1.0, float(theirs.abs().max())):
        raise UserError(
            f"{found.title} gives other scores when its classifier is taken out (up to {far:.2g} apart): it does more "
            f"with '{found.classifier}' than apply it, so it cannot be extended"
        )
