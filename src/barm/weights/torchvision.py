"""Import DeepLabV3 of torchvision as step 0 of a run.

Backbone, ASPP, 3x3 convolution and classifier are ours, tensor for tensor (output stride 8, dilations 12, 24, 36). It
was trained with softmax, while BARM's scores are a probability per class: `barm.weights.calibrate` refits the
classifier on images without labels.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from barm.config import load_config
from barm.data.palette import id_palette, published
from barm.data.text import read_lines
from barm.engine.checkpoint.directory import RunDirectory
from barm.engine.checkpoint.network import describe_classes
from barm.engine.runtime import Runtime
from barm.errors import UserError
from barm.models.segmenter import check_names
from barm.reading import Unfit, read_pickled, read_safetensors, state_dict_of
from barm.weights.calibrate import REPORT, Calibration, calibrate, find_images
from barm.weights.checkpoints import state_in
from barm.weights.containers import open_contents
from barm.weights.kind import Kind, State
from barm.weights.networks import torchvision_name, unwrapped
from barm.words import count

PREFIXES = {
    "classifier.0.": "classifier.aspp.",
    "classifier.1.": "classifier.head_pre.0.",
    "classifier.2.": "classifier.head_pre.1.",
    "classifier.4.": "classifier.head.0.",
}
BODIES = {6: "resnet50.tv_in1k", 23: "resnet101.tv_in1k"}  # by the blocks of the third stage


def read_state(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a torchvision user's file: a state dict, or a checkpoint that holds one.

    The state dict is looked for where `barm.weights.recognise` looks for it: under the same keys, below the same
    prefixes.

    Raises:
        UserError: if it is not readable, or holds no tensors.
    """
    if not path.is_file():
        raise UserError(f"no checkpoint {path}: give a .pth or .safetensors file")
    try:
        contents = open_contents(path)
        if isinstance(contents, Kind):
            raise Unfit(path, f"it is {contents.name}")
        if contents.form == "safetensors":
            content: Any = read_safetensors(path)
        else:
            content = read_pickled(path, plain_types())
    except Unfit as error:
        raise UserError(
            f"{path} is not a readable checkpoint ({error.what}); expected a state dict that holds tensors only: "
            "torch.save(model.state_dict(), path)"
        ) from error
    keys, shapes = state_in(content, _shape) if isinstance(content, dict) else ((), None)
    for key in keys:
        content = content[key]
    if shapes is not None:
        content = {name: torch.as_tensor(content[name]) for name in shapes}
    state, prefix = state_dict_of(content, path), ""
    if shapes is not None:
        inside = unwrapped(State(shapes))
        prefix = next((place for place, inner in inside if torchvision_name(inner)), "")
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def plain_types() -> list[Any]:
    """Types beside tensors that a training script's checkpoint holds: its flags, numbers and arrays of numpy."""
    scalar, array = np.float64(0).__reduce__()[0], np.zeros(0).__reduce__()[0]
    old_and_new = [
        (function, f"{module}.multiarray.{name}")
        for function, name in ((scalar, "scalar"), (array, "_reconstruct"))
        for module in ("numpy.core", "numpy._core")
    ]
    dtypes = {type(np.dtype(letter)) for letter in "?bBhHiIlLqQefdSU"}
    return [argparse.Namespace, *old_and_new, np.ndarray, np.dtype, *dtypes]


def _shape(value: Any) -> tuple[int, ...] | None:
    """Shape of a dense tensor, or of an array of numbers."""
    if isinstance(value, Tensor):
        return tuple(value.shape) if value.layout == torch.strided else None
    return value.shape if isinstance(value, np.ndarray) and value.dtype.kind in "biuf" else None


def own_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a state dict of torchvision's DeepLabV3 to our names, without the auxiliary classifier."""
    result = {}
    for name, tensor in state.items():
        if not name.startswith("aux_classifier."):
            prefix = next((p for p in PREFIXES if name.startswith(p)), "")
            result[PREFIXES.get(prefix, "") + name.removeprefix(prefix)] = tensor
    return result


def body_of(state: Mapping[str, Tensor], path: Path) -> str:
    """Name of the network's backbone.

    Raises:
        UserError: unless it is DeepLabV3 on a ResNet-50 or -101.
    """
    blocks = len({name.split(".")[2] for name in state if name.startswith("backbone.layer3.")})
    if "classifier.0.project.0.weight" not in state or "classifier.4.weight" not in state or blocks not in BODIES:
        raise UserError(
            f"{path} is not torchvision's deeplabv3_resnet50 or deeplabv3_resnet101: expected the tensors classifier.0."
            f"project.0.weight, classifier.4.weight and 6 or 23 blocks of backbone.layer3, found {blocks} blocks"
        )
    return BODIES[blocks]


def class_names_of(state: Mapping[str, Tensor], names_file: Path | None) -> tuple[str, ...]:
    """Names of the classifier's outputs, background first: from a file, or VOC's.

    Raises:
        UserError: if their number is not that of the outputs.
    """
    outputs = state["classifier.4.weight"].shape[0]
    if names_file is None:
        names = published("voc")[0]
        if outputs != len(names):
            raise UserError(
                f"the classifier has {count(outputs, 'outputs')}, VOC {len(names)}: give the names of yours with "
                "--class-names FILE, one per line"
            )
        return names
    lines = read_lines(names_file)
    names = ("background", *(lines[1:] if lines and "background" in lines[0].lower() else lines))
    if len(names) != outputs or len(set(names)) != len(names):
        raise UserError(
            f"{names_file} names {count(len(names) - 1, 'classes')} ({len(set(names)) - 1} different), the "
            f"classifier has {count(outputs, 'outputs')}: expected {count(outputs - 1, 'names')}, one per line, and "
            "output 0 to be background"
        )
    return names


def import_torchvision(
    path: Path | str,
    out: Path | str,
    *,
    images: Path | str | None,
    names_file: Path | str | None = None,
    overrides: Sequence[str] = (),
) -> Calibration:
    """Write a state dict of torchvision's DeepLabV3 as a finished run of one step.

    Args:
        path: the file.
        out: the run's folder, new.
        images: a folder of images like those the network is used on; labels are not needed.
        names_file: names of the classes, one per line; VOC's by default.
        overrides: ``table.key=value`` over BARM's recipe for VOC, by which the run is extended.

    Returns:
        How well the new scores follow the softmax.

    Raises:
        UserError: for another network, missing images or names; nothing is written then.
    """
    path, out, names_file = Path(path), Path(out), None if names_file is None else Path(names_file)
    state = read_state(path)
    body, names = body_of(state, path), class_names_of(state, names_file)
    if images is None:
        raise UserError(
            "a network trained with softmax needs --calibrate DIR: some tens of images like those it is used on, "
            "without labels; the images of the new classes will do"
        )
    model = {"backbone": body, "output_stride": 8, "pretrained": False}
    task = {"groups": [list(names[1:])]}
    config = load_config("voc/barm", overrides, {"model": model, "task": task, "data": {"layout": "auto"}})
    files, plan = find_images(Path(images)), config.task.plan(names, config.seed)
    module, given = config.method.build(plan[0], config.model).build_model(), own_names(state)
    own, directory = module.state_dict(), RunDirectory(out)
    check_names(own, given, {name for name in own if name.endswith("num_batches_tracked")}, str(path))
    module.load_state_dict({**own, **given})
    try:
        directory.open(config, {"imported": str(path), "calibrated_on": str(images)}, resume=directory.is_rest())
        found = calibrate(module, files, Runtime(config.runtime), side=config.evaluation.crop)
        record = describe_classes(config, plan, plan[0], names, id_palette())
        report = {REPORT: {"images": str(images), **asdict(found)}}
        directory.save_step(0, module.state_dict(), record, None, None, more=report)
    finally:
        directory.close()
    return found
