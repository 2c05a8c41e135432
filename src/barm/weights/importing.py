"""Import a trained network of another library: a file, a folder, a repository on a hub, or a module in Python."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from barm.data.text import read_lines
from barm.errors import UserError
from barm.models.families import own
from barm.models.inputs import IMAGENET_MEAN, IMAGENET_STD, InputRule, Triple
from barm.weights.adoption import RECIPE, ImportedModel, take
from barm.weights.foreign import smp, torchvision, transformers
from barm.weights.foreign.model import ForeignModel
from barm.weights.hub import fetch_folder, is_address
from barm.weights.kind import FAMILIES, Kind
from barm.weights.output_classes import Activation
from barm.weights.probing import divisor_of, example, short
from barm.weights.recognise import recognise
from barm.weights.torchvision import read_state
from barm.words import count

IMAGENET = (IMAGENET_MEAN, IMAGENET_STD)


def check_model(path: Path) -> Kind:
    """Say what a file or folder is.

    Raises:
        UserError: if it is no network of another library that can be taken over.
    """
    kind = recognise(path)
    if kind.family not in FAMILIES or kind.use not in ("adopt", "import"):
        raise UserError(kind.line(path))
    return kind


def find_model(path: Path | str) -> ForeignModel:
    """Read a trained network of another library.

    Args:
        path: a folder of segmentation_models_pytorch or transformers, a state dict of torchvision, or
            ``hf://owner/name[@revision]``.

    Raises:
        UserError: if it is none of these, or damaged.
    """
    place = fetch_folder(path) if is_address(path) else Path(path)
    kind = check_model(place)
    if kind.family != "torchvision":
        reader = smp if kind.family == "smp" else transformers
        found: ForeignModel = reader.read(place)
        return found
    return torchvision.read(read_state(place), place)


def import_model(
    path: Path | str,
    out: Path | str,
    *,
    class_names: Path | str | Sequence[str] | None = None,
    background: str | None = None,
    activation: Activation | None = None,
    images: Path | str | None = None,
    recipe: str = RECIPE,
    overrides: Sequence[str] = (),
) -> ImportedModel:
    """Write a trained network of another library as a finished run of one step, which can be extended.

    Args:
        path: as for `find_model`.
        out: the run's folder, new.
        class_names: names of its classes in the outputs' order, or a file with one per line; by default what its files
            say.
        background: name of the background among them, or ``none``; by default the one that is called so.
        activation: that turns its logits into probabilities; by default what its files say, else softmax.
        images: a folder of images like those it is used on, without labels, for a softmax network that goes on with a
            method of loss ``bce``.
        recipe: of the method that goes on with it.
        overrides: ``table.key=value`` over the recipe.

    Raises:
        UserError: for any other file, or a network that cannot be extended; nothing is written then.
    """
    names = read_lines(Path(class_names)) if isinstance(class_names, Path | str) else class_names
    return take(
        find_model(path),
        out,
        names=names,
        background=background,
        activation=activation,
        images=images,
        recipe=recipe,
        overrides=overrides,
        origin=str(path),
    )


def adopt(
    module: nn.Module,
    out: Path | str,
    *,
    classifier: str,
    classes: Sequence[str],
    normalisation: InputRule | tuple[Triple, Triple] = IMAGENET,
    background: str | None = None,
    activation: Activation = "softmax",
    divisor: int = 1,
    name: str | None = None,
    images: Path | str | None = None,
    recipe: str = RECIPE,
    overrides: Sequence[str] = (),
) -> ImportedModel:
    """Write any trained network as a finished run of one step, which can be extended.

    The network takes images ``(N, 3, H, W)`` and returns logits ``(N, C, h, w)``, in a tuple, a dict or an object where
    it likes. This process knows how it is built from now on; another one has to register it
    (`barm.register_network`), since a run's files hold no code.

    Args:
        module: the network; it is not changed.
        out: the run's folder, new.
        classifier: path of its last convolution, such as ``"head.4"``.
        classes: names of its outputs in their order; background may be left out if it is output 0.
        normalisation: mean and deviation of the images' channels, for values in 0..1.
        background: name of the background among the classes, or ``none``; by default the one that is called so.
        activation: that turns its logits into probabilities.
        divisor: by which the sides of its images must be divisible.
        name: under which it is registered; its class's by default.
        images: as for `import_model`.
        recipe: of the method that goes on with it.
        overrides: ``table.key=value`` over the recipe.

    Raises:
        UserError: for a network that cannot be extended; nothing is written then.

    >>> taken = adopt(network, "runs/base", classifier="head.4", classes=["road", "car"])  # doctest: +SKIP
    """
    if not isinstance(module, nn.Module):
        raise UserError(f"found a {type(module).__name__}: expected the network, an nn.Module")
    if isinstance(classes, str):
        raise UserError(f"classes is the text '{classes}': expected a list of names, one per output")
    module = getattr(module, "_orig_mod", module)  # of torch.compile
    classifier = classifier.removeprefix("_orig_mod.")
    called = name or type(module).__qualname__
    if not isinstance(divisor, int) or isinstance(divisor, bool) or divisor < 1:
        raise UserError(f"divisor is {divisor}: expected a whole number from 1 on")
    copied, notes = _copied(module, called)
    found = ForeignModel(
        called, "python", copied, {}, classifier, None, activation, _rule(normalisation), divisor=divisor, notes=notes
    )
    found = replace(found, divisor=divisor_of(found))
    known = own.is_held(called)
    found = replace(found, architecture=own.hold(called, copied, example(found.divisor).shape[2:]))
    try:
        return take(
            found,
            out,
            names=classes,
            background=background,
            images=images,
            recipe=recipe,
            overrides=overrides,
            origin=called,
        )
    except BaseException:
        if not known:
            own.release(called)
        raise


def _copied(module: nn.Module, called: str) -> tuple[nn.Module, tuple[str, ...]]:
    """A copy of a network as float32 on the processor, in evaluation mode, and remarks about it."""
    try:
        copied = copy.deepcopy(module).cpu().eval()
    except Exception as error:  # whatever another's network raises
        raise UserError(
            f"{called} cannot be copied ({short(error)}): expected a network that keeps nothing of the images it has "
            "seen; delete such attributes"
        ) from error
    kinds = {str(p.dtype).removeprefix("torch.") for p in copied.parameters() if p.is_floating_point()} - {"float32"}
    notes = (f"its weights were {' and '.join(sorted(kinds))}, and are float32 from now on",) if kinds else ()
    return copied.float(), notes


def _rule(normalisation: Any) -> InputRule:
    """Check a normalisation that Python code gives."""
    if isinstance(normalisation, InputRule):
        return normalisation
    try:
        mean, std = (tuple(float(v) for v in values) for values in normalisation)
        fits = len(mean) == len(std) == 3 and all(map(math.isfinite, (*mean, *std))) and min(std) > 0
    except (TypeError, ValueError):
        fits = False
    if not fits:
        raise UserError(
            f"normalisation is {normalisation!r}: expected mean and deviation of the three channels for values in "
            "0..1, such as ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)), or an InputRule"
        )
    return InputRule(mean, std)  # type: ignore[arg-type]  # three numbers each, as checked


def import_lines(taken: ImportedModel) -> list[str]:
    """What was imported, for the terminal."""
    names, model = taken.classes.names, taken.config.model
    shown = ", ".join(names[1:9]) + (", ..." if len(names) > 9 else "")
    background = {
        "row": "background is one of its outputs",
        "threshold": "background is where no class is likelier than not",
        "none": "it has no background",
    }[taken.classes.background]
    lines = [
        f"{taken.run}: {taken.title}, {count(len(names) - 1, 'classes')} ({shown}); {background}",
        f"  images: mean {_numbers(model.mean)}, deviation {_numbers(model.std)} of values in 0..1; "
        "if it was trained with others, --set model.mean and model.std",
        *(f"  {note}" for note in taken.notes),
    ]
    found: Any = taken.calibration
    if found is not None:
        lines += [
            f"  softmax -> a probability per class, fitted on {count(found.fitted, 'images')} and measured on "
            f"{count(found.held_out, 'others')}:",
            f"  calibration error {found.error_before:.4f} -> {found.error_after:.4f}, "
            f"{100 * found.agreement:.2f} % of the pixels keep their class",
        ]
    return lines


def _numbers(values: Sequence[float]) -> str:
    return " ".join(f"{value:.3f}" for value in values)
