"""`barm extend` of a network of another library: it learns a class, and its own library loads it again."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import barm
from barm.cli import app
from barm.config import load_config
from barm.data.sources.shapes import class_names
from barm.data.sources.shapes_disk import make_shapes
from barm.engine.checkpoint.directory import RunDirectory
from barm.errors import UserError
from barm.extension.early import ModelOptions
from barm.extension.imported import taken_lines
from barm.models.adopted import logits_of
from barm.weights.adoption import ImportedModel
from barm.weights.importing import find_model
from barm.weights.output_classes import Classes

sys.path.insert(0, str(Path(__file__).parents[1] / "weights" / "foreign"))
import networks
from balance import balance, noise

NEW = class_names(1)[0]
SMALL = (
    "increment.epochs=1",
    "increment.batch_size=4",
    "increment.crop=64",
    "runtime.workers=0",
    "runtime.precision=32-true",
    "runtime.tensorboard=false",
)
SOON = ("smp-fpn", "transformers-segformer", "torchvision-lraspp")
LONG = [pytest.param(name, marks=pytest.mark.long) for name in networks.EVERY if name not in SOON]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("new") / "data"
    make_shapes(root, num_train=8, num_val=2, size=(96, 64), seed=3, only=[NEW], workers=0)
    return root


def extended(model: Path, data: Path, out: Path, recipe: str = "folder/mib") -> dict:
    options = ModelOptions(class_names=None if model.is_dir() else networks.NAMES)
    return barm.extend(model, data, model=options, out=out, recipe=recipe, overrides=SMALL, device="cpu", quiet=True)


def loaded_there(name: str, place: Path) -> nn.Module:
    """The network as its own library loads it from what `barm export --format original` wrote."""
    if name.startswith("smp"):
        return networks.smp.from_pretrained(place).eval()
    if name.startswith("transformers"):
        made, report = networks.transformers.AutoModelForSemanticSegmentation.from_pretrained(
            place, output_loading_info=True
        )
        assert not any(report.values())
        return made.eval()
    made = networks.torchvision_network(networks.KINDS[name], len(networks.NAMES) + 1)
    made.load_state_dict(torch.load(place, weights_only=True))
    return made.eval()


@pytest.mark.slow
@pytest.mark.parametrize("name", [*SOON, *LONG])
def test_a_network_learns_a_class_and_goes_back_to_its_library(name, data, tmp_path):
    model = networks.EVERY[name](tmp_path / "model")
    result = extended(model, data, tmp_path / "run")
    assert result["learned"] == [NEW]
    assert set(result["class_iou"]) == {*networks.NAMES, NEW}
    size = (224, 224) if name == "smp-dpt" else (64, 96)  # which alone DPT takes as its library loads it
    image = noise(*size)
    balance(tmp_path / "run", image)
    target = tmp_path / ("back" if model.is_dir() else "back.pth")
    barm.export_original(tmp_path / "run", target)
    there = loaded_there(name, target)
    ours = barm.load(tmp_path / "run", device="cpu", precision="32-true").predict(image)
    rule = barm.read_config(tmp_path / "run").model.rule
    pixels = (torch.from_numpy(image).float() / 255 - torch.tensor(rule.mean)) / torch.tensor(rule.std)
    with torch.no_grad():
        logits = logits_of(there(pixels.permute(2, 0, 1)[None]))
        logits = nn.functional.interpolate(logits, size, mode="bilinear", align_corners=False)
    assert len(np.unique(ours)) > 2, "equal maps of one class prove nothing"
    assert np.mean(logits[0].argmax(0).numpy() == ours) > 0.999


def test_barm_extends_a_softmax_network_which_is_calibrated_on_the_new_images(data, tmp_path):
    model = networks.QUICK["transformers-segformer"](tmp_path / "model")
    extended(model, data, tmp_path / "run", "folder/barm")
    assert RunDirectory(tmp_path / "run-base").has(0, "calibration.json")
    with pytest.raises(UserError, match="barm adds branches to transformers Segformer"):
        barm.original(tmp_path / "run")


@pytest.mark.graph
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "recipe"),
    [
        pytest.param("smp-fpn", "folder/barm", marks=pytest.mark.long),
        pytest.param("transformers-segformer", "folder/mib", marks=pytest.mark.long),
        ("smp-fpn", "folder/segacil"),
    ],
)
def test_every_extension_goes_out_as_onnx(name, recipe, data, tmp_path):
    extended(networks.QUICK[name](tmp_path / "model"), data, tmp_path / "run", recipe)
    found = barm.export_step(tmp_path / "run", tmp_path / "model.onnx")
    assert found.equal > 0.999


def test_a_module_from_python_is_extended_and_given_back(data, tmp_path):
    torch.manual_seed(0)
    module = networks.shaken(networks.Own())
    given = {"classifier": "head.1", "classes": networks.NAMES, "recipe": "folder/mib", "overrides": SMALL}
    barm.adopt(module, tmp_path / "base", **given)
    barm.extend(tmp_path / "base", data, out=tmp_path / "run", overrides=SMALL, device="cpu", quiet=True)
    image = noise(64, 96)
    balance(tmp_path / "run", image)
    wider = barm.original(tmp_path / "run")
    assert type(wider) is networks.Own
    assert wider.head[1].out_channels == len(networks.NAMES) + 1
    model = barm.load(tmp_path / "run", device="cpu", precision="32-true")
    rule = barm.read_config(tmp_path / "run").model.rule
    pixels = (torch.from_numpy(image).float() / 255 - torch.tensor(rule.mean)) / torch.tensor(rule.std)
    with torch.no_grad():
        logits = wider(pixels.permute(2, 0, 1)[None])["out"][0]
    best, second = logits.topk(2, dim=0).values
    decided = (best - second > 1e-5).numpy()  # elsewhere rounding decides
    labels = logits.argmax(0).numpy()
    assert len(np.unique(labels)) > 2, "equal maps of one class prove nothing"
    assert decided.mean() > 0.99
    assert np.array_equal(labels[decided], model.predict(image)[decided])


def test_the_command_says_what_the_network_is(data, tmp_path):
    model = networks.QUICK["smp-fpn"](tmp_path / "model")
    command = ["extend", str(model), "--data", str(data), "--out", str(tmp_path / "run"), "--recipe", "folder/mib"]
    command += ["--calibrate", str(data), "--device", "cpu"]
    crop = [text for text in SMALL if "crop" not in text]
    done = CliRunner().invoke(app, [*command, *(part for text in crop for part in ("--set", text))])
    assert done.exit_code == 0, done.output
    text = " ".join(done.output.split())
    assert (
        "segmentation_models_pytorch FPN, resnet18, 3 classes (sky, road, car); background is one of its outputs"
        in text
    )
    assert "images: mean 0.485 0.456 0.406, deviation 0.229 0.224 0.225 of values in 0..1" in text
    assert f"{tmp_path}/run-base is the network as a run of one step" in text
    assert f"no calibration is needed, its scores are taken as they are: {data} is not looked at" in text
    assert "increment.crop is" in text
    assert "base.crop" not in text, "step 0 is not trained"
    shutil.rmtree(tmp_path / "run-base")  # as it says
    barm.export_original(tmp_path / "run", tmp_path / "back")


def test_the_command_says_when_background_is_the_largest_output():
    adopted = {"family": "smp", "classifier": "head", "width": 4, "outputs": (0, 1)}
    config = load_config("folder/barm", ["task.groups=[['car']]"], {"model": {"adopted": adopted}})
    taken = ImportedModel(Path("run"), "net", Classes(("background", "car"), (0, 1), "row"), config, None, ())
    rule = "a pixel is background where that output is the largest"
    assert any(rule in line for line in taken_lines(taken, ModelOptions(activation="sigmoid")))
    assert not any(rule in line for line in taken_lines(taken, ModelOptions()))


def test_an_error_leaves_nothing(data, tmp_path):
    model = networks.QUICK["smp-fpn"](tmp_path / "model")
    with pytest.raises(UserError, match="has no class 'bicycle'"):
        barm.extend(model, data, ["bicycle"], out=tmp_path / "run", recipe="folder/mib", quiet=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model"]


def test_another_file_is_told_before_anything_else(data, tmp_path):
    (tmp_path / "page.pth").write_text("<!DOCTYPE html><html><body>404</body></html>")
    with pytest.raises(UserError, match=r"page\.pth is a web page"):
        barm.extend(tmp_path / "page.pth", data, quiet=True)


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "added"), [("folder/mib", []), ("folder/lwf", ["background"])])
def test_a_network_without_background_gets_one_from_a_method_that_trains_it(recipe, added, data, tmp_path):
    labels = networks.NAMES[1:]
    model = networks.segformer(tmp_path / "model", id2label=dict(enumerate(labels)))
    rates = [f"increment.lr.{part}=0.1" for part in ("new", "old")]
    barm.extend(model, data, out=tmp_path / "run", recipe=recipe, overrides=[*SMALL, *rates], device="cpu", quiet=True)
    barm.export_original(tmp_path / "run", tmp_path / "back")
    found = find_model(tmp_path / "back")
    assert list(found.names) == [*labels, *added, NEW]


def test_an_extension_is_extended_and_goes_back(data, tmp_path):
    other = class_names(2)[1]
    make_shapes(tmp_path / "more", num_train=4, num_val=1, size=(96, 64), seed=4, only=[other], workers=0)
    extended(networks.segformer(tmp_path / "model"), data, tmp_path / "first")
    barm.extend(
        tmp_path / "first", tmp_path / "more", out=tmp_path / "second", overrides=SMALL, device="cpu", quiet=True
    )
    barm.export_original(tmp_path / "second", tmp_path / "back")
    assert list(find_model(tmp_path / "back").names) == [*networks.NAMES, NEW, other]
    assert "licen" not in "".join(p.read_text() for p in (tmp_path / "back").glob("*.md"))
