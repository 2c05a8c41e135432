"""Folders of segmentation_models_pytorch: ``config.json`` and ``model.safetensors``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from barm.data.text import read_lines
from barm.errors import UserError
from barm.models.families import build
from barm.models.inputs import InputRule, timm_rule
from barm.models.segmenter import check_names
from barm.reading import Unfit, read_json, read_pickled, read_safetensors, state_dict_of
from barm.weights.foreign.model import Activation, ForeignModel
from barm.words import count

CONFIG, CLASSES, KEY = "config.json", "classes.txt", "_model_class"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
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


def recognises(path: Path) -> bool:
    """Whether a folder is one that `save_pretrained` of this library wrote."""
    try:
        content = read_json(path / CONFIG)
    except (OSError, Unfit):
        return False
    return isinstance(content, dict) and KEY in content


def read(path: Path) -> ForeignModel:
    """Read a folder.

    Raises:
        UserError: if its weights are missing, damaged, or those of another network; for images without colours.
    """
    architecture: dict[str, Any] = {**read_json(path / CONFIG), "encoder_weights": None}  # which may name a path
    name, encoder = str(architecture[KEY]), str(architecture.get("encoder_name", ""))
    if architecture.get("in_channels", 3) != 3:
        number = count(architecture["in_channels"], "channels")
        raise UserError(f"{path} has an input of {number}: expected 3, red, green, blue")
    activation = architecture.get("activation")
    if activation not in ACTIVATIONS:
        raise UserError(f"{path} ends with the activation '{activation}': expected none, softmax2d or sigmoid")
    module = build("smp", architecture).eval()
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
        "sigmoid" if architecture.get("classes") == 1 else ACTIVATIONS[activation],
        input_rule(encoder),
        int(stride) if getattr(module, "requires_divisible_input_shape", True) else 1,
        notes,
    )


def input_rule(encoder: str) -> InputRule:
    """Rule by which an encoder's pretrained weights want their images."""
    if encoder.startswith("tu-"):
        return timm_rule(encoder.removeprefix("tu-"))
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
    (folder / CLASSES).write_text("".join(f"{name}\n" for name in names), "utf-8")


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
