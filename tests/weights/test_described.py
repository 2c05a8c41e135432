"""What is promised of a folder of another library is checked in its description and the headers of its weights."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from described_folders import SEGFORMER_FOLDER, TRANSFORMERS_HEAD, UNET, UPERNET_FOLDER, described
from safetensors.torch import save_file

from barm.models.families import smp, torchvision, transformers
from barm.weights import described as descriptions
from barm.weights import networks
from barm.weights.recognise import recognise

DAMAGES: list[tuple[dict[str, Any], str, Any, str]] = [  # description, field, value, words
    (UNET, "_model_class", "Dlib", "'_model_class' is \"Dlib\", expected one of DPT"),
    (UNET, "encoder_name", ["x"], "'encoder_name' is [\"x\"], expected the name of an encoder"),
    (UNET, "encoder_name", "tu-hf-hub:a/b", "expected the name of an encoder"),
    (UNET, "encoder_weights", 3, "'encoder_weights' is 3, expected a name"),
    (UNET, "in_channels", 4, "'in_channels' is 4, expected 3"),
    (UNET, "activation", ["x"], "'activation' is [\"x\"], expected null, sigmoid or softmax2d"),
    (UNET, "activation", {"a": 1}, "'activation' is {\"a\": 1}"),
    (UNET, "aux_params", "x", "'aux_params' is \"x\", expected an object"),
    (UNET, "classes", "x", "'classes' is \"x\", expected a whole number from 1 on"),
    (UNET, "classes", 7, "'classes' is 7, but model.safetensors has 3 outputs"),
    (SEGFORMER_FOLDER, "model_type", 1, "'model_type' is 1, expected segformer"),
    (SEGFORMER_FOLDER, "num_channels", None, "'num_channels' is null, expected 3"),
    (SEGFORMER_FOLDER, "num_labels", 7, "'num_labels' is 7, expected 3, the entries of id2label"),
    (SEGFORMER_FOLDER, "id2label", {"0": "a"}, "'id2label' names 1 output, but model.safetensors has 3 outputs"),
    (SEGFORMER_FOLDER, "id2label", {"x": "a"}, '\'id2label\' is {"x": "a"}, expected an object of names under'),
    (SEGFORMER_FOLDER, "id2label", ["a"], "'id2label' is [\"a\"], expected an object"),
    (SEGFORMER_FOLDER, "id2label", None, "'num_labels' is 2 by default, but model.safetensors has 3 outputs"),
    (UPERNET_FOLDER, "num_labels", 7, "'num_labels' is 7, but model.safetensors has 3 outputs"),
    (UPERNET_FOLDER, "backbone_config", {"num_channels": 1}, "'num_channels' is 1, expected 3"),
]


@pytest.mark.parametrize(("config", "field", "value", "words"), DAMAGES)
def test_a_description_that_does_not_fit_is_named_before_anything_is_promised(config, field, value, words, tmp_path):
    folder = described(tmp_path / "net", {**config, field: value})
    kind = recognise(folder)
    line = kind.line(folder)
    assert (kind.family, kind.use) == ("smp" if config is UNET else "transformers", "none")
    assert "cannot be loaded (config.json: " in line
    assert words in line


def test_weights_that_do_not_fit_are_named_before_anything_is_promised(tmp_path):
    """Cut short, of another network, none, or one of several files missing."""
    folder = described(tmp_path / "net", SEGFORMER_FOLDER)
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:-4])
    assert "cannot be loaded (model.safetensors: is a safetensors file that is cut short" in recognise(folder).name
    save_file({"a": torch.zeros(1)}, folder / "model.safetensors")
    assert "has no tensor 'decode_head.classifier.weight'" in recognise(folder).name
    (folder / "model.safetensors").rename(folder / "model.fp16.safetensors")
    assert "cannot be loaded (has no model.safetensors)" in recognise(folder).name
    index = {"weight_map": {"a": "1.safetensors", TRANSFORMERS_HEAD: "2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    save_file({"a": torch.zeros(1)}, folder / "1.safetensors")
    assert "names 2.safetensors, which is missing" in recognise(folder).name
    (folder / "2.safetensors").write_bytes(whole)
    assert recognise(folder).use == "adopt"


def test_the_names_that_are_promised_are_those_that_are_built():
    assert set(networks.TORCHVISION) == set(torchvision.NAMES)
    assert set(descriptions.SMP) == set(smp.CLASSES)
    assert set(descriptions.TRANSFORMERS) == set(transformers.CLASSES)
