"""What is called adoptable is read, damages have one line, and images are normalised as the libraries do it."""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import networks
import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor
from torchvision.models import get_model

from barm.errors import UserError
from barm.models.families.torchvision import NAMES
from barm.models.inputs import InputRule, Normalise
from barm.weights.foreign import smp, torchvision
from barm.weights.foreign import transformers as folders
from barm.weights.importing import find_model
from barm.weights.recognise import recognise
from barm.weights.torchvision import read_state

State = dict[str, Tensor]
HALF = InputRule((0.5,) * 3, (0.5,) * 3)


def outline(name: str, outputs: int = 4) -> State:
    """The tensors of a network, each a single number on the disk."""
    with torch.device("meta"):
        module = networks.torchvision_network(name, outputs, auxiliary=not name.startswith("lraspp"))
    return {k: torch.zeros((), dtype=t.dtype).expand(t.shape) for k, t in module.state_dict().items()}


def below(prefix: str) -> Callable[[State], Any]:
    return lambda state: {prefix + name: tensor for name, tensor in state.items()}


def under(*keys: str, **more: Any) -> Callable[[State], Any]:
    def wrap(state: State) -> Any:
        value: Any = state
        for key in reversed(keys):
            value = {key: value}
        return {**value, **more}

    return wrap


CONTAINERS: dict[str, Callable[[State], Any]] = {
    "bare": under(),
    **{f"below {p}": below(p) for p in ("module.", "model.", "net.", "module.model.")},
    **{
        f"under {k}": under(k, epoch=3)
        for k in ("model", "state_dict", "model_state", "model_state_dict", "net", "ema")
    },
    "under two keys": under("module", "state_dict", epoch=3),
    "under a key, below a prefix": lambda state: {"net": below("module.")(state), "optimizer": {"state": {}}},
    "of torchvision's script": under("model", args=argparse.Namespace(lr=0.1), epoch=1),
    "beside numbers of numpy": under("model", best=np.float64(0.5), random=np.random.default_rng(0).random(3)),
    "an average of weights": lambda state: {"n_averaged": torch.tensor(3), **below("module.")(state)},
    "beside a loss": lambda state: {"loss.weight": torch.zeros(4), **below("model.")(state)},
    "arrays": lambda state: {"model": {k: np.zeros(t.shape, "f4") for k, t in state.items()}, "epoch": 1},
    "beside a set and others": under("model", seen={1}, rest=[1j, bytearray(b"x"), torch.Size([1]), torch.float16]),
    "beside a slice": under("model", rest=slice(1)),
}


@pytest.mark.parametrize("container", CONTAINERS)
def test_what_is_called_adoptable_is_read_from_every_container(container, tmp_path):
    state, path = outline("lraspp_mobilenet_v3_large"), tmp_path / "model.pth"
    torch.save(CONTAINERS[container](state), path)
    kind = recognise(path)
    assert kind.architecture == "lraspp_mobilenet_v3_large"
    if kind.use == "none":
        assert container == "beside a slice"
        with pytest.raises(UserError, match="not a readable checkpoint"):
            read_state(path)
    else:
        found = read_state(path)
        assert {name: t.shape for name, t in found.items()} == {name: t.shape for name, t in state.items()}


@pytest.mark.parametrize("name", NAMES)
def test_every_network_of_torchvision_is_called_adoptable_and_read(name, tmp_path):
    path = tmp_path / "model.pth"
    torch.save(under("net")(below("model.")(outline(name))), path)
    assert (recognise(path).architecture, recognise(path).use != "none") == (name, True)
    with torch.device("meta"), warnings.catch_warnings():  # no numbers are needed
        warnings.simplefilter("ignore")
        found = torchvision.read(read_state(path), path)
    assert found.title == f"torchvision {name}"


@pytest.mark.parametrize("backbone", ["resnet18", "resnet34"])
def test_a_network_on_another_backbone_is_named_and_refused(backbone, tmp_path):
    state = {k.replace("backbone.", ""): t for k, t in outline("fcn_resnet50").items() if k.startswith("classifier")}
    with torch.device("meta"):
        body = get_model(backbone).state_dict()
    state |= {f"backbone.{k}": torch.zeros(()).expand(t.shape) for k, t in body.items()}
    torch.save(state, tmp_path / "model.pth")
    kind = recognise(tmp_path / "model.pth")
    assert (kind.architecture, kind.use) == (f"fcn_{backbone}", "none")
    with pytest.raises(UserError, match=rf"takes \(fcn_{backbone}\): expected one of fcn_resnet50"):
        torchvision.read(read_state(tmp_path / "model.pth"), Path("model.pth"))


def test_a_file_with_the_ending_of_another_form(tmp_path):
    state = {k: t.contiguous() for k, t in outline("lraspp_mobilenet_v3_large").items()}
    save_file(state, tmp_path / "model.pth")
    assert recognise(tmp_path / "model.pth").use == "adopt"
    assert read_state(tmp_path / "model.pth").keys() == state.keys()
    torch.save(state, tmp_path / "model.safetensors")
    assert recognise(tmp_path / "model.safetensors").advice == "give it the ending .pth"
    with pytest.raises(UserError, match=r"a file of torch\.save that is called \.safetensors"):
        read_state(tmp_path / "model.safetensors")


@pytest.fixture(scope="module")
def segformer(tmp_path_factory):
    return networks.segformer(tmp_path_factory.mktemp("segformer") / "model")


@pytest.fixture(scope="module")
def unet(tmp_path_factory):
    return networks.QUICK["smp-unet"](tmp_path_factory.mktemp("unet") / "model")


def changed(folder: Path, copy: Path, name: str, change: Callable[[Any], Any]) -> Path:
    """A folder of links to another, with one of its files changed."""
    copy.mkdir()
    for file in folder.iterdir():
        if file.name != name:
            (copy / file.name).symlink_to(file)
    (copy / name).write_text(json.dumps(change(json.loads((folder / name).read_text()))))
    return copy


WRONG = (None, "x", 1e400, float("nan"), [], ["x"], [None] * 3, [float("nan")] * 3, [0, 0], {}, {"a": 1}, 10**400)
PROCESSOR: dict[str, tuple[Any, ...]] = {
    "image_mean": WRONG,
    "image_std": (*WRONG, 0, -1, [0, 0, 0], [0.2, 0.2, 0]),
    "rescale_factor": (*WRONG, 0, -1, True),
    "do_rescale": (None, "false", 0, [], {}),
    "do_normalize": (None, "false", 0, [], {}),
}


@pytest.mark.parametrize("field", PROCESSOR)
def test_a_damaged_image_processor_has_one_line(field, segformer, tmp_path):
    for number, value in enumerate(PROCESSOR[field]):
        folder = changed(
            segformer, tmp_path / str(number), "preprocessor_config.json", lambda c, v=value: {**c, field: v}
        )
        assert recognise(folder).use == "none"
        with pytest.raises(UserError, match=f"preprocessor_config.json: '{field}' is .*, expected ") as caught:
            folders.read(folder)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["preprocessor_config.json", "config.json"])
def test_a_description_that_is_no_object_has_one_line(name, segformer, tmp_path):
    for number, value in enumerate([None, [], "x", 3, True, [{}]]):
        folder = changed(segformer, tmp_path / str(number), name, lambda _, v=value: v)
        with pytest.raises(UserError, match=f"{name}.* is .*, expected a JSON object") as caught:
            find_model(folder)
        assert "\n" not in str(caught.value)


def refused(folder: Path, file: str, content: Any) -> str:
    """Read a folder with another description, and give the error if there is one."""
    (folder / file).write_text(json.dumps(content))
    try:
        find_model(folder)
    except UserError as error:
        return str(error)
    return ""


def check_every(folder: Path, fields: Iterable[str], values: tuple[Any, ...], library: str) -> None:
    """A field of another type is named, or the library's own words with the file, or it does not matter."""
    config = json.loads((folder / "config.json").read_text())
    for field in fields:
        for value in values:
            said = refused(folder, "config.json", {**config, field: value}) if value != config[field] else ""
            named = "config.json: " in said and (field in said or f"{library} cannot build this network (" in said)
            assert not said or named, (field, value, said)
            assert "\n" not in said


def test_every_damaged_field_of_smp_has_one_line(unet, tmp_path):
    folder = changed(unet, tmp_path / "model", "config.json", lambda c: c)
    fields = json.loads((unet / "config.json").read_text())
    check_every(folder, fields, ("x", -3, 1.5, ["x"], {"a": 1}), "smp")


def test_every_damaged_field_of_transformers_has_one_line(segformer, tmp_path):
    folder = changed(segformer, tmp_path / "model", "config.json", lambda c: c)
    fields = ("model_type", "id2label", "depths", "hidden_act", "layer_norm_eps")
    check_every(folder, fields, ("x", -3, ["x"], {"a": 1}), "transformers")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"do_rescale": False, "image_mean": [120, 110, 100], "image_std": [58, 57, 56]},
        {"do_normalize": False},
        {"do_normalize": False, "do_rescale": False},
        {"rescale_factor": 1 / 127.5, "image_mean": [1, 1, 1], "image_std": [1, 1, 1]},
        {"do_normalize": False, "rescale_factor": 1 / 127.5},
        {"image_mean": 0.5, "image_std": 0.25},
    ],
)
def test_images_are_normalised_as_the_image_processor_does_it(options, segformer, tmp_path):
    folder = changed(segformer, tmp_path / "model", "preprocessor_config.json", lambda c: {**c, **options})
    image = np.random.default_rng(0).integers(0, 256, (20, 24, 3), np.uint8)
    processor = transformers.SegformerImageProcessor.from_pretrained(folder)
    expected = processor(image, do_resize=False, return_tensors="pt")["pixel_values"].float()
    ours = Normalise(folders.read(folder).rule)(torch.from_numpy(image).permute(2, 0, 1)[None])
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("key", ["do_reduce_labels", "reduce_labels"])
def test_masks_without_background_are_told(key, segformer, tmp_path):
    def change(content: dict[str, Any]) -> dict[str, Any]:
        content.pop("do_reduce_labels", None)
        return {**content, key: True}

    folder = changed(segformer, tmp_path / "model", "preprocessor_config.json", change)
    assert "no output is background" in folders.read(folder).notes[0]
    assert not folders.read(segformer).notes


@pytest.mark.parametrize(
    ("encoder", "weights", "rule"),
    [
        ("efficientnet-b0", "advprop", HALF),
        ("timm-efficientnet-b4", "advprop", HALF),
        ("efficientnet-b0", "imagenet", InputRule()),
        ("timm-efficientnet-b4", "noisy-student", InputRule()),
        ("timm-tf_efficientnet_lite0", "imagenet", HALF),
        ("inceptionresnetv2", "imagenet+background", HALF),
        ("resnet18", None, InputRule()),
        ("tu-tf_efficientnet_b0.ap_in1k", None, HALF),
    ],
)
def test_the_weights_of_an_encoder_say_how_images_are_normalised(encoder, weights, rule):
    assert smp.input_rule(encoder, weights) == rule


def test_the_weights_of_an_encoder_survive_the_way_back(tmp_path):
    import segmentation_models_pytorch

    folder = networks.of_smp("Unet", "efficientnet-b0", decoder_channels=(16, 16, 8, 8, 8))(tmp_path / "model")
    given = changed(folder, tmp_path / "given", "config.json", lambda c: {**c, "encoder_weights": "advprop"})
    found = smp.read(given)
    assert found.rule == HALF
    assert found.architecture["encoder_weights"] is None
    smp.save(*smp.widened(found.architecture, networks.NAMES), networks.NAMES, tmp_path / "back")
    assert smp.read(tmp_path / "back").rule == HALF
    segmentation_models_pytorch.from_pretrained(tmp_path / "back")
