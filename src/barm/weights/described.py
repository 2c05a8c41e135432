"""What other libraries store beside a network's tensors, checked field by field before anything is built.

torch is not loaded: `barm weights show` looks at the same files as the readers in `barm.weights.foreign`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from barm.reading import Unfit, read_json
from barm.weights.checkpoints import shapes_in
from barm.weights.containers import open_contents
from barm.weights.kind import Kind
from barm.weights.pickled import tables_in
from barm.words import count

CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"
CONFIG_LIMIT = 16 << 20  # bytes, of a library's description
KEY = "_model_class"  # of segmentation_models_pytorch
WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # the first that is there is read
INDEX = ".index.json"  # after the name of weights that are in several files
AGAIN = "mend it, or save the folder anew with save_pretrained"
SMP = frozenset(
    {"Unet", "UnetPlusPlus", "MAnet", "Linknet", "FPN", "PSPNet", "PAN", "DeepLabV3", "DeepLabV3Plus"}
    | {"UPerNet", "Segformer", "DPT"}
)  # networks of segmentation_models_pytorch that barm takes
SMP_HEADS = ("segmentation_head.0.weight", "segmentation_head.head.4.weight")
TRANSFORMERS = {  # classes that barm takes: their names in papers, and the library's word for them
    "SegformerForSemanticSegmentation": ("SegFormer", "segformer"),
    "UperNetForSemanticSegmentation": ("UPerNet", "upernet"),
}
TRANSFORMERS_HEAD = ("decode_head.classifier.weight",)
ACTIVATIONS = (None, "identity", "sigmoid", "softmax", "softmax2d", "logsoftmax")  # of segmentation_models_pytorch
SMALLEST, LARGEST = 1e-6, 1e6  # of the numbers that normalise images
Triple = tuple[float, float, float]


def wrong(file: Path, field: str, found: Any, expected: str) -> Unfit:
    """The error of a field of a description.

    >>> str(wrong(Path("a.json"), "classes", [1], "a whole number"))
    "a.json: 'classes' is [1], expected a whole number; mend it, or save the folder anew with save_pretrained"
    """
    text = " ".join(json.dumps(found).split())
    return Unfit(file, f"'{field}' is {text if len(text) <= 40 else f'{text[:37]}...'}, expected {expected}", AGAIN)


def description(file: Path) -> dict[str, Any]:
    """Read a library's description.

    Raises:
        FileNotFoundError: if there is none.
        Unfit: if it is no JSON object.
    """
    content = read_json(file, CONFIG_LIMIT)
    if not isinstance(content, dict):
        raise Unfit(file, f"is {_form(content)}, expected a JSON object", AGAIN)
    return content


def smp_description(folder: Path) -> dict[str, Any]:
    """Read and check the description of a folder of segmentation_models_pytorch.

    Raises:
        Unfit: naming the first field that does not fit, or the file with the weights.
    """
    file = folder / CONFIG
    config = description(file)
    name, encoder, activation = (config.get(field) for field in (KEY, "encoder_name", "activation"))
    if not isinstance(name, str) or name not in SMP:
        raise wrong(file, KEY, name, f"one of {', '.join(sorted(SMP))}")
    if not isinstance(encoder, str) or not encoder or ":" in encoder:  # with a colon it names a place
        raise wrong(file, "encoder_name", encoder, "the name of an encoder, such as resnet34")
    if not isinstance(config.get("encoder_weights"), str | None):
        raise wrong(file, "encoder_weights", config["encoder_weights"], "a name, such as imagenet, or null")
    _check_colours(config, "in_channels", file)
    if not isinstance(activation, str | None) or activation not in ACTIVATIONS:
        raise wrong(file, "activation", activation, "null, sigmoid or softmax2d")
    if not isinstance(config.get("aux_params"), dict | None):
        raise wrong(file, "aux_params", config["aux_params"], "an object or null")
    outputs = whole(config.get("classes", 1), "classes", file)
    _check_outputs(folder, WEIGHTS, SMP_HEADS, config, "classes", outputs)
    return config


def transformers_description(folder: Path) -> dict[str, Any]:
    """Read and check the description of a folder of transformers.

    Raises:
        Unfit: as `smp_description`.
    """
    file = folder / CONFIG
    config = description(file)
    names = config.get("architectures")
    if not isinstance(names, list) or not names or not isinstance(names[0], str) or names[0] not in TRANSFORMERS:
        raise wrong(file, "architectures", names, f"a list of one of {', '.join(TRANSFORMERS)}")
    word = TRANSFORMERS[names[0]][1]
    if config.get("model_type") != word:
        raise wrong(file, "model_type", config.get("model_type"), word)
    _check_colours(config, "num_channels", file)
    _check_local(config, file)
    if isinstance(config.get("backbone_config"), dict):
        _check_local(config["backbone_config"], file)
        _check_colours(config["backbone_config"], "num_channels", file)
    field = "id2label" if config.get("id2label") is not None else "num_labels"
    outputs = len(labels_of(config, file)) or whole(config.get("num_labels") or 2, "num_labels", file)
    if config.get("num_labels", outputs) != outputs:
        raise wrong(file, "num_labels", config["num_labels"], f"{outputs}, the entries of id2label")
    _check_outputs(folder, _parts(folder), TRANSFORMERS_HEAD, config, field, outputs)
    normalisation(processor(folder), folder / PROCESSOR, ((0, 0, 0), (1, 1, 1)))
    return config


def _check_local(config: Mapping[str, Any], file: Path) -> None:
    """Refuse a backbone that the library would fetch from a hub, since a file alone names it."""
    name = config.get("backbone")
    if config.get("use_pretrained_backbone"):
        raise wrong(file, "use_pretrained_backbone", True, "false, as the folder holds all weights")
    if name is not None and (not config.get("use_timm_backbone") or not re.fullmatch(r"[\w.-]+", str(name))):
        raise wrong(file, "backbone", name, "its description as backbone_config, as nothing is fetched for it")


def labels_of(config: Mapping[str, Any], file: Path) -> tuple[str, ...]:
    """Names of the outputs in a description of transformers; empty if it has none.

    Raises:
        Unfit: unless they have the numbers 0, 1, ....
    """
    table = config.get("id2label")
    if table is None:
        return ()
    right = isinstance(table, dict) and table and set(table) == {str(i) for i in range(len(table))}
    if not right or not all(isinstance(name, str) and name for name in table.values()):
        raise wrong(file, "id2label", table, 'an object of names under "0", "1", ...')
    return tuple(table[str(i)] for i in range(len(table)))


def processor(folder: Path) -> dict[str, Any]:
    """Read the description of an image processor; empty if there is none.

    Raises:
        Unfit: if it is no JSON object.
    """
    try:
        return description(folder / PROCESSOR)
    except FileNotFoundError:
        return {}


def normalisation(given: Mapping[str, Any], file: Path, default: tuple[Triple, Triple]) -> tuple[Triple, Triple]:
    """Mean and deviation, for values in 0..1, by which an image processor of transformers normalises.

    Args:
        given: its description; what is missing has the processor's own default.
        file: for error messages.
        default: mean and deviation.

    Raises:
        Unfit: for a field of another type, or a number that makes no image.
    """
    rescaled, normalised = (_flag(given, field, file) for field in ("do_rescale", "do_normalize"))
    factor = _number(given.get("rescale_factor", 1 / 255), "rescale_factor", file) if rescaled else 1.0
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if normalised:
        mean = _triple(given.get("image_mean", list(default[0])), "image_mean", file, -LARGEST)
        std = _triple(given.get("image_std", list(default[1])), "image_std", file, SMALLEST)
    scale = 255 * factor  # what the processor subtracts the mean from, for a value of 1
    m, s = ([v / scale for v in values] for values in (mean, std))
    return (m[0], m[1], m[2]), (s[0], s[1], s[2])


def reduced(given: Mapping[str, Any]) -> bool:
    """Whether an image processor took background out of the masks: output 0 is then the class of value 1."""
    return given.get("do_reduce_labels", given.get("reduce_labels")) is True


def whole(value: Any, field: str, file: Path) -> int:
    """Check that a field is a whole number from 1 on.

    Raises:
        Unfit: if it is something else.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise wrong(file, field, value, "a whole number from 1 on")
    return value


def _check_colours(config: Mapping[str, Any], field: str, file: Path) -> None:
    found = config.get(field, 3)
    if found != 3 or isinstance(found, bool):
        raise wrong(file, field, found, "3, for red, green and blue")


def _parts(folder: Path) -> tuple[str, ...]:
    """Names of the files with the tensors, of which transformers may write several."""
    for name in WEIGHTS:
        index = folder / f"{name}{INDEX}"
        if not (folder / name).is_file() and index.is_file():
            table = description(index).get("weight_map")
            parts = set(table.values()) if isinstance(table, dict) and all(map(_is_name, table.values())) else set()
            if not parts:
                raise wrong(index, "weight_map", table, "file names by tensor")
            missing = sorted(part for part in parts if not (folder / part).is_file())
            if missing:
                raise Unfit(index, f"names {missing[0]}, which is missing", "fetch or copy the folder again")
            return tuple(sorted(parts))
    return WEIGHTS


def _check_outputs(
    folder: Path, names: tuple[str, ...], heads: tuple[str, ...], config: Mapping[str, Any], field: str, outputs: int
) -> None:
    """Refuse weights that are missing or damaged, or have another number of outputs than the description says."""
    files = [folder / name for name in names if (folder / name).is_file()]
    if not files:
        raise Unfit(folder, f"has no {WEIGHTS[0]}", "save it anew with save_pretrained")
    shapes: dict[str, tuple[int, ...]] = {}
    for file in files[:1] if names == WEIGHTS else files:
        contents = open_contents(file)
        if isinstance(contents, Kind):
            raise Unfit(file, f"is {contents.name}", contents.advice)
        shapes |= shapes_in(tables_in(contents.top))
    head = next((shapes[name] for name in heads if shapes.get(name)), None)
    if head is None:
        raise Unfit(files[0], f"has no tensor '{heads[0]}'", "save the folder anew with save_pretrained")
    if head[0] != outputs:
        said = f"names {count(outputs, 'outputs')}" if field == "id2label" else f"is {outputs}"
        said += "" if field in config else " by default"
        what = f"'{field}' {said}, but {files[0].name} has {count(head[0], 'outputs')}"
        raise Unfit(folder / CONFIG, what, AGAIN)


def _flag(given: Mapping[str, Any], field: str, file: Path) -> bool:
    value = given.get(field, True)
    if not isinstance(value, bool):
        raise wrong(file, field, value, "true or false")
    return value


def _number(value: Any, field: str, file: Path) -> float:
    if not _is_number(value) or not SMALLEST <= value <= LARGEST:
        raise wrong(file, field, value, f"a number between {SMALLEST:g} and {LARGEST:g}")
    return float(value)


def _triple(value: Any, field: str, file: Path, least: float) -> Triple:
    """Three numbers, or one for all channels."""
    values = [value] * 3 if _is_number(value) else value
    right = isinstance(values, list) and len(values) == 3 and all(_is_number(v) for v in values)
    if not right or not all(least <= v <= LARGEST for v in values):
        raise wrong(file, field, value, f"three numbers between {least:g} and {LARGEST:g}")
    return float(values[0]), float(values[1]), float(values[2])


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and Path(value).name == value


def _form(value: Any) -> str:
    forms = {list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return forms.get(type(value), "a number")
