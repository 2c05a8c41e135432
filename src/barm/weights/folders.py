"""Recognise a folder: a run, or what a library saved with its description in ``config.json``."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from barm.reading import Unfit
from barm.weights.described import (
    CONFIG,
    KEY,
    TRANSFORMERS,
    description,
    labels_of,
    smp_description,
    transformers_description,
)
from barm.weights.kind import OWN, Family, Kind
from barm.weights.networks import ADOPT, BACKBONE, PYTHON
from barm.words import count

RUN = "config.toml"
WEIGHTS = (".pth", ".pt", ".ckpt", ".safetensors", ".bin", ".onnx", ".pt2", ".pkl")
NOT = f"barm cannot go on from it; {OWN}"
TASKS = (  # endings of transformers' classes, and what such a network gives
    ("ForSemanticSegmentation", "a segmentation network with a head of its own kind"),
    ("ForUniversalSegmentation", "it gives masks with classes, no logits per pixel"),
    ("ForInstanceSegmentation", "it gives masks with classes, no logits per pixel"),
    ("ForImageSegmentation", "it is asked by a text or an example"),
    ("ForSegmentation", "a detector with masks"),
    ("ForObjectDetection", "a detector"),
    ("ForImageClassification", "an image classifier"),
    ("ForDepthEstimation", "it estimates depth"),
    ("ForCausalLM", "a language model"),
    ("LMHeadModel", "a language model"),
    ("ForMaskedLM", "a language model"),
    ("ForConditionalGeneration", "a model that writes text"),
    ("ForSequenceClassification", "a classifier of texts"),
    ("ForMaskGeneration", "its masks have no classes"),
)


def kind_of_folder(path: Path) -> Kind:
    """The kind of a folder."""
    try:
        names = set(os.listdir(path))
    except OSError as error:
        return Kind("unreadable", f"a folder that cannot be read ({error.strerror})", "check its permissions")
    if RUN in names and "model.safetensors" not in names:
        return _run(names)
    if CONFIG in names:
        return _described(path, names)
    return _marked(names) or _plain(path, names)


def _run(names: set[str]) -> Kind:
    steps = sorted(int(name[4:]) for name in names if re.fullmatch(r"step\d{2,}", name))
    if not steps:
        return Kind("run", "a run of barm without a finished step", "`barm train ... --resume` goes on with it", "none")
    advice = (
        "`barm evaluate {path}`, `barm predict {path} IMAGE`, `barm extend {path}` and `barm export {path}` take it"
    )
    return Kind("run", f"a run of barm, finished up to step {steps[-1]}", advice, "open", step=steps[-1])


def _described(path: Path, names: set[str]) -> Kind:
    try:
        config = description(path / CONFIG)
    except (Unfit, OSError) as error:
        what = error.what if isinstance(error, Unfit) else str(error.strerror)
        return Kind("damaged", f"a folder whose {CONFIG} {what}", "save it anew")
    if not any(name.endswith((".safetensors", ".bin", ".index.json")) for name in names):
        return Kind("damaged", f"a folder with a {CONFIG}, but without weights beside it", "save it anew, whole")
    classes = config.get("architectures")
    if KEY in config:
        return _checked("smp", path, _smp)
    if isinstance(classes, list) and classes and isinstance(classes[0], str):
        return _checked("transformers", path, _transformers) if classes[0] in TRANSFORMERS else _other(classes[0])
    if isinstance(config.get("architecture"), str):
        name = config["architecture"]
        advice = BACKBONE.format(name=name).replace("{path}", "{path}/model.safetensors")
        return Kind(
            "timm", f"a folder of timm with {name}", advice, "backbone", name, _number(config.get("num_classes"))
        )
    if config.get("model_type") in [word for _, word in TRANSFORMERS.values()]:
        return _checked("transformers", path, _transformers)
    if isinstance(config.get("model_type"), str):
        return Kind("transformers", f"a folder of transformers with a {config['model_type']} network", NOT)
    return Kind("folder", f"a folder whose {CONFIG} names no network that barm knows", NOT)


def _checked(family: Family, path: Path, kind_of: Callable[[Path], Kind]) -> Kind:
    """The kind of a network that barm takes, or what is wrong with its folder."""
    try:
        return kind_of(path)
    except Unfit as error:
        library = "segmentation_models_pytorch" if family == "smp" else "transformers"
        place = "" if error.path == path else f"{error.path.name}: "
        name = f"a folder of {library} that cannot be loaded ({place}{error.what})"
        return Kind(family, name, "mend it, or save it anew with save_pretrained")


def _smp(path: Path) -> Kind:
    config = smp_description(path)
    name, outputs = config[KEY], config.get("classes", 1)
    title = f"segmentation_models_pytorch's {name} on {config['encoder_name']}, {count(outputs, 'outputs')}"
    return Kind("smp", title, ADOPT, "adopt", name, outputs)


def _transformers(path: Path) -> Kind:
    config = transformers_description(path)
    name = config["architectures"][0]
    outputs = len(labels_of(config, path)) or config.get("num_labels") or 2
    title = f"transformers' {TRANSFORMERS[name][0]} ({name}, {count(outputs, 'outputs')})"
    return Kind("transformers", title, ADOPT, "adopt", name, outputs)


def _other(name: str) -> Kind:
    """A network of transformers that barm does not take."""
    task = next((what for ending, what in TASKS if name.endswith(ending)), "")
    known = " and ".join(sorted(title for title, _ in TRANSFORMERS.values()))
    own = f"{PYTHON}; {OWN}" if name.endswith("ForSemanticSegmentation") else OWN
    title = f"a network of transformers ({name}{f': {task}' if task else ''})"
    return Kind("transformers", title, f"of transformers' folders barm takes {known}; {own}", "none", name)


def _marked(names: set[str]) -> Kind | None:
    """A folder that one file in it tells."""
    if "saved_model.pb" in names or "keras_metadata.pb" in names:
        return Kind("tensorflow", "a SavedModel of TensorFlow", "barm reads networks of PyTorch alone")
    if "adapter_config.json" in names:
        advice = "merge them into their network with `merge_and_unload()`, and give the folder which that saves"
        return Kind("network", "a folder of peft with adapters, not a network", advice)
    if "model_index.json" in names:
        return Kind("network", "a pipeline of diffusers, which makes images", NOT)
    if "plans.json" in names or "dataset_fingerprint.json" in names:
        return Kind("nnunet", "a folder of nnU-Net", NOT)
    if ".metadata" in names and any(name.endswith(".distcp") for name in names):
        advice = "join it: `python -m torch.distributed.checkpoint.format_utils dcp_to_torch {path} FILE`"
        return Kind("folder", "a distributed checkpoint of torch, in pieces", advice)
    if "data.pkl" in names and "data" in names:
        return Kind("folder", "a checkpoint of torch.save that was unpacked", "give the file as it was before")
    if "model.safetensors" in names:
        return Kind(
            "barm-file", "a folder with a model.safetensors", "give the file in it: {path}/model.safetensors", "none"
        )
    return None


def _plain(path: Path, names: set[str]) -> Kind:
    if not names:
        return Kind("folder", "an empty folder", "give a run's folder, or a checkpoint")
    runs = sorted(name for name in names if (path / name / RUN).is_file())
    if runs:
        inside = " or ".join(f"{{path}}/{name}" for name in runs[:3])
        return Kind("folder", f"a folder with {count(len(runs), 'runs')} in it", f"give one of them: {inside}")
    files = sorted(str(found.relative_to(path)) for found in _weights(path))
    if files:
        few = ", ".join(files[:3]) + (", ..." if len(files) > 3 else "")
        return Kind("folder", f"a folder with {count(len(files), 'checkpoints')} in it", f"give one of them: {few}")
    if {"images", "masks"} <= names or "JPEGImages" in names:
        return Kind("folder", "a folder of images, a data set", "`barm data check {path}` says what it holds")
    return Kind("folder", "a folder without weights that barm knows", "give a run's folder, or a checkpoint in it")


def _weights(path: Path, deep: int = 2) -> list[Path]:
    """Files with the endings of weights, down to the folders below."""
    patterns = ["/".join(["*"] * level) for level in range(1, deep + 2)]
    return [p for pattern in patterns for p in path.glob(pattern) if p.suffix in WEIGHTS and p.is_file()]


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
