"""Folders of transformers: ``config.json``, ``model.safetensors``, ``preprocessor_config.json``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from barm.errors import UserError
from barm.models.families import build
from barm.models.families.transformers import CLASSES, configuration, plain
from barm.models.inputs import IMAGENET_MEAN, IMAGENET_STD, InputRule
from barm.reading import Unfit, read_json
from barm.weights.foreign.model import ForeignModel
from barm.words import count

CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"
PROCESSOR_KEY = "barm_preprocessor"  # of the processor's file within the description
CLASSIFIER = "decode_head.classifier"


def recognises(path: Path) -> bool:
    """Whether a folder holds a network of this library that can be extended."""
    try:
        content = read_json(path / CONFIG)
    except (OSError, Unfit):
        return False
    return isinstance(content, dict) and any(name in CLASSES for name in content.get("architectures") or ())


def read(path: Path) -> ForeignModel:
    """Read a folder.

    Raises:
        UserError: if the library is missing, or the weights are missing, damaged, or those of another network.
    """
    architecture: dict[str, Any] = plain(read_json(path / CONFIG))
    if architecture.get("num_channels", 3) != 3:
        number = count(architecture["num_channels"], "channels")
        raise UserError(f"{path} has an input of {number}: expected 3, red, green, blue")
    name = architecture["architectures"][0]
    module = build("transformers", architecture).eval()
    loaded = _loaded(path, name, architecture)
    module.load_state_dict(loaded.state_dict())
    processor = _processor(path)
    labels = {int(k): str(v) for k, v in (architecture.get("id2label") or {}).items()}
    names = tuple(labels[i] for i in sorted(labels)) or None
    auxiliary = architecture.get("use_auxiliary_head", True) and name.startswith("UperNet")
    outputs = loaded.config.num_labels
    return ForeignModel(
        f"transformers {name}",
        "transformers",
        module,
        {**architecture, PROCESSOR_KEY: processor},
        CLASSIFIER,
        None if names == tuple(f"LABEL_{i}" for i in range(outputs)) else names,
        "sigmoid" if outputs == 1 else "softmax",
        _rule(processor, path),
        notes=("its auxiliary head is left out",) if auxiliary else (),
    )


def widened(architecture: Mapping[str, Any], names: Sequence[str]) -> tuple[nn.Module, dict[str, Any]]:
    """The library's own network for these outputs, with random weights, and its configuration."""
    config = {key: value for key, value in architecture.items() if key not in (PROCESSOR_KEY, "num_labels")}
    config["id2label"] = dict(enumerate(names))
    config["label2id"] = {name: i for i, name in enumerate(names)}
    module = build("transformers", config)
    return module, dict(architecture)


def save(module: Any, config: Mapping[str, Any], names: Sequence[str], folder: Path) -> None:
    """Write the folder that `from_pretrained` of this library loads."""
    with _silence():
        module.save_pretrained(folder)
    if config.get(PROCESSOR_KEY):
        (folder / PROCESSOR).write_text(json.dumps(config[PROCESSOR_KEY], indent=2) + "\n", "utf-8")


def _loaded(path: Path, name: str, architecture: Mapping[str, Any]) -> Any:
    """Load by the library itself, which knows the names of its older files."""
    import transformers

    try:
        with _silence():
            module, report = getattr(transformers, name).from_pretrained(
                path, config=configuration(architecture), local_files_only=True, output_loading_info=True
            )
    except Exception as error:  # its own, safetensors' and the file system's
        told = " ".join(str(error).split())[:160]
        raise UserError(
            f"{path} cannot be loaded by transformers ({told}): save it again with save_pretrained"
        ) from None
    wrong = [*report["missing_keys"], *(key[0] for key in report["mismatched_keys"])]
    if wrong:
        raise UserError(f"{path} lacks {len(wrong)} of the network's tensors, first '{wrong[0]}': save it again")
    return module


def _processor(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path / PROCESSOR)
    except (OSError, Unfit):
        return {}
    return content if isinstance(content, dict) else {}


def _rule(processor: Mapping[str, Any], path: Path) -> InputRule:
    """Rule of an image processor, for values in 0..1."""
    mean, std = (tuple(processor.get(k) or default) for k, default in _DEFAULTS)
    factor = float(processor.get("rescale_factor") or 1 / 255) * 255
    if not processor.get("do_normalize", True):
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if len(mean) != 3 or len(std) != 3 or not all(std):
        raise UserError(f"{path / PROCESSOR}: image_mean and image_std are not three numbers each: mend them")
    m, s = (tuple(float(v) / factor for v in values) for values in (mean, std))
    return InputRule((m[0], m[1], m[2]), (s[0], s[1], s[2]))


_DEFAULTS = (("image_mean", IMAGENET_MEAN), ("image_std", IMAGENET_STD))


@contextmanager
def _silence() -> Iterator[None]:
    """Keep the library's bars and remarks off the terminal."""
    from transformers.utils import logging as library

    logging: Any = library  # not typed
    level, shown = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()
