"""Folders of segmentation_models_pytorch: ``config.json`` and ``model.safetensors``."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from barm.data.text import read_lines
from barm.errors import UserError
from barm.models.inputs import InputRule, timm_rule
from barm.models.segmenter import check_names
from barm.reading import Unfit, read_json, read_pickled, read_safetensors, state_dict_of
from barm.weights.described import CONFIG, KEY, WEIGHTS, smp_description, whole, wrong
from barm.weights.foreign.model import ForeignModel, built
from barm.weights.output_classes import Activation

CLASSES = "classes.txt"
PRETRAINED = "_encoder_weights"  # of the description; the library leaves out what begins with a line
ADVPROP = "advprop"  # weights of EfficientNets that want other images than ImageNet's
HALF = (0.5, 0.5, 0.5)
INPUTS: Mapping[str, InputRule] = {  # of encoders whose weights want something else than ImageNet's mean and deviation
    **{name: InputRule(HALF, HALF) for name in ("xception", "inceptionv4", "inceptionresnetv2")},
    "dpn": InputRule((124 / 255, 117 / 255, 104 / 255), (1 / (0.0167 * 255),) * 3),
    "timm-tf_efficientnet_lite": InputRule(HALF, HALF),
}
ACTIVATIONS: Mapping[str | None, Activation | None] = {
    None: None,
    "identity": None,
    "sigmoid": "sigmoid",
    "softmax": "softmax",
    "softmax2d": "softmax",
    "logsoftmax": "softmax",
}


def read(path: Path) -> ForeignModel:
    """Read a folder.

    Raises:
        UserError: if its weights are missing, damaged, or those of another network; for images without colours.
    """
    given = smp_description(path)
    name, encoder, activation = given[KEY], given["encoder_name"], given.get("activation")
    weights = given.get("encoder_weights") or given.get(PRETRAINED)
    weights = weights if weights == ADVPROP else None  # it may name a place, and no other changes the rule
    architecture: dict[str, Any] = {**given, "encoder_weights": None, PRETRAINED: weights}
    _check_types(architecture, path / CONFIG)
    module = built("smp", architecture, path / CONFIG).eval()
    state = {k: v for k, v in _weights(path).items() if not k.startswith("classification_head.")}
    check_names(module.state_dict(), state, set(), str(path))
    module.load_state_dict(state)
    notes = () if architecture.get("aux_params") is None else ("its classifier of whole images is left out",)
    stride: Any = module.encoder.output_stride  # type: ignore[union-attr]
    return ForeignModel(
        f"segmentation_models_pytorch {name}, {encoder}",
        "smp",
        module,
        architecture,
        _classifier(module),
        tuple(read_lines(path / CLASSES)) if (path / CLASSES).is_file() else None,
        "sigmoid" if architecture.get("classes", 1) == 1 else ACTIVATIONS[activation],
        input_rule(encoder, weights),
        int(stride) if getattr(module, "requires_divisible_input_shape", True) else 1,
        notes,
    )


def input_rule(encoder: str, weights: str | None = None) -> InputRule:
    """Rule by which an encoder's pretrained weights want their images.

    The library itself fetches these numbers from a hub. All its encoders take RGB in 0..1.

    Args:
        encoder: its name.
        weights: name of the weights, such as ``imagenet``.
    """
    if encoder.startswith("tu-"):
        return timm_rule(encoder.removeprefix("tu-"))
    if weights == ADVPROP:
        return InputRule(HALF, HALF)
    return next((rule for start, rule in INPUTS.items() if encoder.startswith(start)), InputRule())


def widened(architecture: Mapping[str, Any], names: Sequence[str]) -> tuple[nn.Module, dict[str, Any]]:
    """The library's own network for these outputs, with random weights, and its configuration."""
    import segmentation_models_pytorch as smp

    config = {**architecture, "classes": len(names), "encoder_weights": None, "aux_params": None}
    options = {key: value for key, value in config.items() if not key.startswith("_")}
    return getattr(smp, str(config[KEY]))(**options), config


def save(module: Any, config: Mapping[str, Any], names: Sequence[str], folder: Path) -> None:
    """Write the folder that `from_pretrained` of this library loads."""
    module.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)  # it claims a licence, which is not the library's to claim
    if config.get(PRETRAINED):  # which says how its images are normalised
        written = {**read_json(folder / CONFIG), PRETRAINED: config[PRETRAINED]}
        (folder / CONFIG).write_text(json.dumps(written, indent=2) + "\n", "utf-8")
    (folder / CLASSES).write_text("".join(f"{name}\n" for name in names), "utf-8")


def _check_types(config: Mapping[str, Any], file: Path) -> None:
    """Refuse a value of another type than that of the library's default.

    Raises:
        Unfit: naming the field.
    """
    import segmentation_models_pytorch as smp

    encoder, attention = config["encoder_name"], config.get("decoder_attention_type")
    if not encoder.startswith(("tu-", "timm-")) and encoder not in smp.encoders.get_encoder_names():
        raise wrong(file, "encoder_name", encoder, "an encoder of the library")
    if attention is not None and attention != "scse":
        raise wrong(file, "decoder_attention_type", attention, "null or scse")
    for field, parameter in inspect.signature(getattr(smp, config[KEY])).parameters.items():
        value, default = config.get(field, parameter.default), parameter.default
        if isinstance(default, tuple) and not (isinstance(value, list | tuple) and all(type(v) is int for v in value)):
            raise wrong(file, field, value, "a list of whole numbers")
        if type(default) is int:
            whole(value, field, file)
        if type(default) is float and not (type(value) in (int, float) and 0 <= value <= 1):
            raise wrong(file, field, value, "a number between 0 and 1")


def _classifier(module: nn.Module) -> str:
    """Path of the last convolution of the segmentation head."""
    return [str(name) for name, child in module.named_modules() if isinstance(child, nn.Conv2d)][-1]


def _weights(path: Path) -> dict[str, Tensor]:
    file = next((path / name for name in WEIGHTS if (path / name).is_file()), None)
    if file is None:
        raise UserError(f"{path} has a {CONFIG} of segmentation_models_pytorch, but no {WEIGHTS[0]}: save it again")
    try:
        if file.suffix == ".safetensors":
            return read_safetensors(file)
        return state_dict_of(read_pickled(file), file)
    except Unfit as error:
        raise UserError(f"{file} is not readable ({error.what}): save it again with save_pretrained") from None
