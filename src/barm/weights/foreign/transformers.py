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
from barm.models.families.transformers import configuration, plain
from barm.models.inputs import IMAGENET_MEAN, IMAGENET_STD, InputRule
from barm.weights.described import (
    CONFIG,
    PROCESSOR,
    labels_of,
    normalisation,
    processor,
    reduced,
    transformers_description,
)
from barm.weights.foreign.model import ForeignModel, built
from barm.words import count

PROCESSOR_KEY = "barm_preprocessor"  # of the processor's file within the description
CLASSIFIER = "decode_head.classifier"
REDUCED = (
    "it was trained on masks without their background (do_reduce_labels): output 0 is the class of value 1, and no "
    "output is background"
)


def read(path: Path) -> ForeignModel:
    """Read a folder.

    Raises:
        UserError: if the library is missing, or the weights are missing, damaged, or those of another network.
    """
    given = transformers_description(path)
    architecture: dict[str, Any] = plain(given)
    name = architecture["architectures"][0]
    module = built("transformers", architecture, path / CONFIG).eval()
    loaded = _loaded(path, name, architecture)
    module.load_state_dict(loaded.state_dict())
    images = processor(path)
    mean, std = normalisation(images, path / PROCESSOR, (IMAGENET_MEAN, IMAGENET_STD))
    auxiliary = architecture.get("use_auxiliary_head", True) and name.startswith("UperNet")
    outputs, names = loaded.config.num_labels, labels_of(given, path / CONFIG)
    return ForeignModel(
        f"transformers {name}",
        "transformers",
        module,
        {**architecture, PROCESSOR_KEY: images},
        CLASSIFIER,
        None if names == tuple(f"LABEL_{i}" for i in range(outputs)) else names or None,
        "sigmoid" if outputs == 1 else "softmax",
        InputRule(mean, std),
        notes=(*(("its auxiliary head is left out",) if auxiliary else ()), *((REDUCED,) if reduced(images) else ())),
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
    more = [key for key in report["unexpected_keys"] if not key.startswith("auxiliary_head.")]
    if more:
        raise UserError(
            f"{path} has {count(len(more), 'tensors')} more than the network that its config.json describes, first "
            f"'{more[0]}': mend it, or save the folder anew with save_pretrained"
        )
    return module


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
