"""Take a trained network of another library over as step 0 of a run.

Its last convolution makes way for a classifier of ours with the same weights, so that it gives the scores that it gave
before. A method whose scores are a probability per class needs a softmax network to be calibrated
(`barm.weights.calibrate`); a method with softmax does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from barm.config import load_config
from barm.data.palette import id_palette
from barm.engine.checkpoint.directory import RunDirectory
from barm.engine.checkpoint.network import describe_classes
from barm.engine.config import RunConfig
from barm.engine.runtime import Runtime
from barm.errors import UserError
from barm.labels import NO_ROW
from barm.models.adopted import NEVER, AdoptedConfig, watched
from barm.models.heads import GroupedHead, PlainHead
from barm.weights.calibrate import REPORT, Calibration, calibrate, find_images
from barm.weights.foreign.model import ForeignModel
from barm.weights.hub import is_address
from barm.weights.output_classes import ACTIVATIONS, Activation, Classes, classes_of
from barm.weights.probing import check_growth, describe, divisor_of, example, last_convolution
from barm.words import count

RECIPE = "folder/barm"
TOLERANCE = 1e-4  # of the largest logit


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
    config: RunConfig = field(repr=False)
    calibration: Calibration | None = field(repr=False)
    notes: tuple[str, ...]


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
    if kind not in ACTIVATIONS:
        raise UserError(f"unknown activation '{kind}': expected {' or '.join(ACTIVATIONS)}")
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
    adopted = describe(found, kind, classes.outputs, classes.background)
    adopted = adopted.model_copy(update={"origin": origin if is_address(origin) else ""})
    config = _configured(found, adopted, classes, recipe, overrides)
    plan = config.task.plan(classes.names, config.seed)
    network: Any = config.method.build(plan[0], config.model).build_model()
    if isinstance(network.classifier, PlainHead):
        check_growth(found, unchanged=network.tail)
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
        directory.open(
            config, {**record, **({"calibrated_on": str(images)} if fitted else {})}, resume=directory.is_rest()
        )
        if fitted:
            calibration = calibrate(network, files, Runtime(config.runtime), side=config.evaluation.crop)
        described = describe_classes(config, plan, plan[0], classes.names, id_palette())
        report = {} if calibration is None else {REPORT: {"images": str(images), **asdict(calibration)}}
        directory.save_step(0, network.state_dict(), described, None, None, more=report)
    finally:
        directory.close()
    return ImportedModel(Path(out), found.title, classes, config, calibration, found.notes)


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
def _check_same(network: Any, found: ForeignModel, classes: Classes) -> None:
    """Compare both networks on noise: our classes must have the scores of their outputs."""
    image = example(found.divisor)
    inner, logits = watched(found.module.eval(), found.classifier, image)
    made, theirs = network.eval()(image).logits, logits if network.tail else inner
    pairs = [(channel, row) for channel, row in enumerate(classes.outputs) if row != NO_ROW]
    ours, theirs = (t[:, list(p)] for t, p in zip((made, theirs), zip(*pairs, strict=True), strict=True))
    far = float((ours - theirs).abs().max())
    if not far <= TOLERANCE * max(1.0, float(theirs.abs().max())):
        raise UserError(
            f"{found.title} gives other scores when its classifier is taken out (up to {far:.2g} apart): it does more "
            f"with '{found.classifier}' than apply it, so it cannot be extended"
        )
