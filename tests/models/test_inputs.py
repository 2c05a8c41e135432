"""A network owns its normalisation: one place, kept with the weights, the same wherever the network is used."""

from __future__ import annotations

import json
import shutil
import tomllib

import numpy as np
import pytest
import timm
import tomli_w
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config

from barm.api import fit
from barm.config import load_config
from barm.data.sources.shapes import render
from barm.engine.checkpoint.directory import CONFIG, METHOD, RunDirectory
from barm.engine.checkpoint.network import load_step
from barm.engine.config import RuntimeConfig
from barm.engine.runtime import Runtime
from barm.labels import TaskPlan
from barm.methods import METHODS
from barm.models.inputs import IMAGENET_MEAN, IMAGENET_STD, InputRule, Normalise
from barm.models.segmenter import NetworkConfig
from barm.predict.model import load
from barm.weights.export.formats import to_onnx, to_safetensors, to_torch_export
from barm.weights.trained import open_trained
from editing import unchecked

HALF = (0.5, 0.5, 0.5)
BACKBONES = ("resnet18", "tf_efficientnet_lite0", "resnetv2_50", "convnext_atto", "xception41")
FROM_ZERO = InputRule((0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255), "bgr")  # as Caffe's networks


def noise(side: int = 96) -> Image.Image:
    return Image.fromarray(render(3, split="train", num_classes=4, size=(side, side), seed=0).image)


def pixels(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]


def network_of(**options) -> torch.nn.Module:
    """A network with fresh weights whose rule is that of pretrained ones."""
    method = METHODS["barm"]().build(TaskPlan.parse("2-1", 4)[1], NetworkConfig(channels=16, **options))
    torch.manual_seed(0)
    return method.build_model().eval()


@pytest.mark.parametrize("backbone", BACKBONES)
def test_logits_equal_those_of_timm_s_own_preprocessing(backbone):
    image, network = noise(), network_of(backbone=backbone)
    wanted = resolve_data_config({}, model=timm.create_model(backbone)) | {"input_size": (3, 96, 96), "crop_pct": 1.0}
    prepared = create_transform(**wanted)(image)[None]
    with torch.no_grad():
        ours, theirs = network(pixels(image)).logits, network(prepared).logits
        others = network(Normalise(InputRule(IMAGENET_MEAN, IMAGENET_STD))(pixels(image))).logits
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert torch.allclose(ours, others) == (wanted["mean"] == IMAGENET_MEAN)
    for precision in ("32-true", "bf16-mixed"):
        constant = Runtime(RuntimeConfig(device="cpu", precision=precision)).constant(network)
        assert torch.equal(constant(pixels(image)).logits, constant(network.normalise(pixels(image))).logits)


def test_where_the_rule_comes_from():
    assert NetworkConfig().rule == InputRule()  # of the official checkpoints
    assert NetworkConfig(backbone="deeplab_mobilenetv2").rule == InputRule()
    assert NetworkConfig(backbone="tf_efficientnet_lite0").mean == HALF
    assert NetworkConfig(backbone="tf_efficientnet_lite0", pretrained=False, weights="lite0.pth").mean == HALF
    assert NetworkConfig(backbone="tf_efficientnet_lite0", pretrained=False).mean == IMAGENET_MEAN
    assert NetworkConfig(backbone="tf_efficientnet_lite0", mean=(0.1, 0.2, 0.3)).rule == InputRule(
        (0.1, 0.2, 0.3), HALF
    )
    with pytest.raises(ValueError, match=r"how 'hf-hub:a/b' wants its images is not known here: give model.mean"):
        NetworkConfig(backbone="hf-hub:a/b")
    assert NetworkConfig(backbone="hf-hub:a/b", mean=HALF, std=HALF).mean == HALF
    with pytest.raises(ValueError, match="greater than 0"):
        NetworkConfig(std=(0.5, 0.0, 0.5))


def test_range_and_order_of_channels():
    values = torch.tensor([10.0, 20.0, 30.0]).view(1, 3, 1, 1)
    assert torch.allclose(Normalise(FROM_ZERO)(values.to(torch.uint8)), values.flip(1))
    assert torch.equal(Normalise(FROM_ZERO)(values), values)  # floating point is normalised already


@pytest.fixture(scope="module")
def run(shapes_voc, tiny_settings, tmp_path_factory):
    """One step of a network with a rule of its own."""
    path = tmp_path_factory.mktemp("rule") / "run"
    rule = [f"model.{k}={json.dumps(v)}" for k, v in FROM_ZERO._asdict().items()]
    fit("shapes/3-1/barm", data=shapes_voc, out=path, overrides=[*tiny_settings, *rule], steps=[0], quiet=True)
    return path


def test_the_rule_is_kept_with_the_weights(run, tmp_path):
    assert RunDirectory(run).config().model.rule == FROM_ZERO
    assert RunDirectory(run).read(0, METHOD)["model"]["order"] == "bgr"
    network, method = load_step(RunDirectory(run), 0)
    assert network.normalise.rule == FROM_ZERO
    image = noise(48)
    with torch.no_grad():
        out, otherwise = network(pixels(image)), network(Normalise(InputRule())(pixels(image)))
        expected = method.predict(out, (48, 48))[0].numpy()
    assert not torch.allclose(out.logits, otherwise.logits, atol=0.1)
    assert (load(run, precision="32-true").predict(image) == expected).all()
    (tmp_path / "model.safetensors").write_bytes(to_safetensors(open_trained(run)).content)
    assert (load(tmp_path / "model.safetensors", precision="32-true").predict(image) == expected).all()


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(to_onnx, marks=[pytest.mark.graph, pytest.mark.slow]),
        pytest.param(to_torch_export, marks=[pytest.mark.graph, pytest.mark.slow]),
        to_safetensors,
    ],
)
def test_the_rule_is_part_of_an_exported_file(run, make):
    image = noise(48)
    expected = load(run).predict(image)
    assert (np.asarray(make(open_trained(run)).predict(np.array(image)[None])[0]) == expected).all()


def test_runs_from_before_the_rule_was_kept_had_imagenet_s(run, tmp_path):
    """Also where timm's weights would have wanted another."""
    old = shutil.copytree(run, tmp_path / "old")
    config, about = tomllib.loads((old / CONFIG).read_text()), json.loads((old / "step00" / METHOD).read_text())
    for table in (config["model"], about["model"]):
        table["pretrained"] = True
        for name in ("mean", "std", "order"):
            del table[name]
    (old / CONFIG).write_text(tomli_w.dumps(config))
    unchecked(old / "step00" / METHOD).write_text(json.dumps(about))
    assert RunDirectory(old).config().model.rule == InputRule()
    assert load_step(RunDirectory(old), 0)[0].normalise.rule == InputRule()
    assert load_config("shapes/3-1/barm", ["model.pretrained=true"]).model.mean == HALF
