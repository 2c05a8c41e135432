"""Give an extended network back to the library that it came from: its own class, with a wider classifier.

A method with one growing classifier keeps the form of the network, so that every class is one more row of its last
convolution. BARM adds branches and residuals, for which other libraries have no place: its networks go out as ONNX.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from barm.errors import UserError
from barm.labels import NO_ROW
from barm.models.adopted import NEVER, AdoptedConfig, replace, watched
from barm.models.families import build
from barm.models.families import torchvision as tv
from barm.models.heads import PlainHead, PlainOutput
from barm.models.segmenter import NetworkConfig
from barm.reading import check_target
from barm.weights.export.agreement import Agreement, Predict, compare, own_images
from barm.weights.foreign import smp, torchvision, transformers
from barm.weights.importing import find_model
from barm.weights.trained import Trained, open_trained
from barm.words import count
from barm.writing import save_pickled

SMALL = 1e-3  # weights of a background that no training has touched
Widened = tuple[nn.Module, dict[str, Any]]
WIDENERS: dict[str, Callable[[Mapping[str, Any], Sequence[str]], Widened]] = {
    "smp": smp.widened,
    "transformers": transformers.widened,
    "torchvision": torchvision.widened,
}


class Original(NamedTuple):
    """A network in the form of its library.

    Attributes:
        family: the library.
        module: of its own class, in evaluation mode.
        names: of its outputs.
        config: the library's configuration of it.
    """

    family: str
    module: nn.Module
    names: tuple[str, ...]
    config: dict[str, Any]


def original(run: Path | str, step: int | None = None) -> nn.Module:
    """The network of an extended run as its own library's class, with a wider classifier.

    Args:
        run: a run's folder, a file or a hub, of a network of another library (`barm.adopt`, ``barm extend MODEL``).
        step: of the run; the last by default.

    Returns:
        A module of the library's class (of the user's own for a network of `barm.adopt`), on the CPU and in evaluation
        mode. Its outputs are the old ones in their order, then a background that the network did not have and was
        taught (a network of one output has it first), then the new classes.

    Raises:
        UserError: as `open_trained`; for a network of barm's own, or of a method that adds more than rows to the
            classifier; if the library is not installed, or the user's class is not registered.
    """
    return as_original(open_trained(run, step)).module


@torch.no_grad()
def as_original(trained: Trained) -> Original:
    """As `original`, for a network that is loaded."""
    adopted = _adopted(trained)
    head: Any = trained.network.classifier
    if not isinstance(head, PlainHead):
        raise UserError(
            f"{trained.record['method']['name']} adds branches to {trained.record['model']['backbone']}, for which "
            f"{adopted.family} has no place: export it as onnx, or extend the network with --recipe folder/mib, lwf, "
            "ilt or finetune"
        )
    order = rows(trained)
    weight, bias = (torch.cat([getattr(h, name) for h in head.head])[order] for name in ("weight", "bias"))
    names = tuple(trained.record["classes"][channel]["name"] for channel in order)
    backbone: Any = trained.network.backbone
    state = dict(backbone.state_dict())
    if adopted.family not in WIDENERS:
        module = build(adopted.family, adopted.description)
        conv = nn.Conv2d(adopted.width, len(order), adopted.kernel, padding=adopted.kernel // 2)
        replace(module, adopted.classifier, conv)
        config = adopted.description
    else:
        module, config = WIDENERS[adopted.family](adopted.description, names)
    state |= {f"{adopted.classifier}.weight": weight, f"{adopted.classifier}.bias": bias}
    module.load_state_dict(_own_names(adopted, state))
    return Original(adopted.family, module.eval(), names, config)


def _adopted(trained: Trained) -> AdoptedConfig:
    adopted = NetworkConfig.stored(trained.record["model"]).adopted
    if adopted is None:
        raise UserError(
            f"this network ({trained.record['model']['backbone']}) is barm's own, of no other library: export it as "
            "onnx, safetensors or torch-export"
        )
    return adopted


def rows(trained: Trained) -> list[int]:
    """Our channels in the order of the library's outputs: the old ones as they were, then the new ones.

    A background that the network did not have follows its old outputs, so that these keep their numbers; it is left out
    while it is never predicted. The two classes of a network with one output are background and the other.
    """
    adopted, first = _adopted(trained), cast(Any, trained.network.classifier).head[0]
    old = {row: channel for channel, row in enumerate(adopted.outputs) if row != NO_ROW}
    never = len(trained.record["groups"]) == 1 or untouched(first.weight, first.bias)
    added = [] if adopted.background == "row" or (adopted.background == "none" and never) else [0]
    kept, new = [old[row] for row in sorted(old)], range(len(adopted.outputs), len(trained.record["classes"]))
    return [*added, *kept, *new] if adopted.background == "threshold" else [*kept, *added, *new]


def untouched(weight: Tensor, bias: Tensor) -> bool:
    """Whether the first row of a classifier is still that of a background which is never predicted."""
    return float(bias[0].detach()) < NEVER / 2 and float(weight[0].detach().abs().max()) < SMALL


def has_background(record: Mapping[str, Any], state: Mapping[str, Tensor]) -> bool:
    """Whether a step's network can predict background.

    Args:
        record: of the step, as in ``method.json``.
        state: its tensors.
    """
    adopted = NetworkConfig.stored(record["model"]).adopted
    if adopted is None or adopted.background != "none":
        return True
    if len(record["groups"]) == 1:  # nothing was trained
        return False
    weight, bias = (state[f"classifier.head.0.{name}"] for name in ("weight", "bias"))
    if any(name.startswith("classifier.ear.") for name in state):  # no residual lifts the constant logit
        return float(bias[0]) >= NEVER / 2
    return not untouched(weight, bias)


def export_original(
    run: Path | str,
    out: Path | str,
    *,
    step: int | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> Agreement:
    """Write what the library itself loads: a folder for ``from_pretrained``, or a state dict of torchvision.

    A folder of segmentation_models_pytorch has ``config.json``, ``model.safetensors`` and ``classes.txt``, the names of
    its outputs. One of transformers has ``config.json``, in which the names are, ``model.safetensors``, and
    ``preprocessor_config.json`` where the network came with one. A state dict of torchvision has no names, and no
    auxiliary classifier: it fits the network built with ``num_classes`` as many as `original` has outputs.

    Everything is written beside `out` first, loaded again by the library, compared with the run's network on generated
    images and on the run's validation images where these are at hand, and then moved into place.

    Args:
        run: as for `original`.
        out: for torchvision a file that ends in ``.pth`` or ``.pt``, overwritten where it exists; otherwise a folder
            that does not exist. Missing folders above it are made.
        step: of the run; the last by default.
        progress: called with what is being done, a line each.

    Returns:
        How near the network that was loaded again is to ours.

    Raises:
        UserError: as `original`; for a network of the user's own class, which has no file; if `out` exists as a folder
            or has another ending (torchvision), or exists (the others); or if what was written predicts something else.
            `out` is as it was then.
        OSError: if it cannot be written.
    """
    trained, target = open_trained(run, step), Path(out)
    found = as_original(trained)
    if found.family == "python":
        raise UserError("this network is a class of your own: barm.original(RUN) in Python gives it back")
    one_file = found.family == "torchvision"
    if one_file and (target.is_dir() or target.suffix not in (".pth", ".pt")):
        raise UserError(f"{target} is no .pth file: torchvision loads a state dict, such as model.pth")
    if one_file:
        check_target(target)
    elif target.exists():
        raise UserError(f"{target} exists already: give a new folder")
    progress(f"writing {trained.record['model']['backbone']} with {count(len(found.names), 'outputs')}")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-", ignore_cleanup_errors=True) as place:
        made = Path(place) / target.name
        _save(found, made)
        progress("loading it again and comparing it")
        again = find_model(made)
        agreed = compare(trained, _predict(again.module, again.classifier, trained), str(target), own_images(run))
        made.replace(target)
    return agreed


def _save(found: Original, target: Path) -> None:
    if found.family == "torchvision":
        return save_pickled(target, dict(found.module.state_dict()))
    save = smp.save if found.family == "smp" else transformers.save
    save(found.module, found.config, found.names, target)


def _predict(module: nn.Module, path: str, trained: Trained) -> Predict:
    """Prediction of the library's network as of ours: from its logits, with our numbers of the classes."""
    network: Any = trained.network
    channels = len(trained.record["classes"])
    order = rows(trained)

    @torch.no_grad()
    def predict(image: Any) -> Any:
        pixels = network.normalise(torch.from_numpy(image.transpose(0, 3, 1, 2).copy()))
        inner, enlarged = watched(module, path, pixels if network.sizes is None else network.sizes.fit(pixels))
        theirs = enlarged if network.tail else inner
        logits = theirs.new_full((len(theirs), channels, *theirs.shape[2:]), NEVER)
        logits[:, order] = theirs
        out, size = PlainOutput(logits, inner, inner), (image.shape[1], image.shape[2])
        labels, (best, _) = trained.method.predict(out, size), trained.method.confidence(out, size)
        return labels.numpy(), best.numpy()

    return predict


def _own_names(adopted: AdoptedConfig, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return tv.parted(state) if adopted.family == "torchvision" else state
