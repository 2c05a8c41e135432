"""The model card of a network of another library: what it says is so, and its code runs."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from PIL import Image

import barm
from barm.engine.checkpoint import checksums
from barm.engine.checkpoint.directory import RunDirectory
from barm.errors import UserError
from barm.weights.card import Repository, _scores, card
from barm.weights.export.original import as_original
from barm.weights.importing import import_model
from barm.weights.trained import open_trained

sys.path.insert(0, str(Path(__file__).parent / "foreign"))
import networks
from balance import balance, noise


def imported(name: str, place: Path, recipe: str = "folder/mib") -> Path:
    model = networks.QUICK[name](place / "model")
    names = None if model.is_dir() else networks.NAMES
    import_model(model, place / "run", class_names=names, recipe=recipe)
    return place / "run"


def card_of(run: Path, *, original: bool) -> str:
    outputs = as_original(open_trained(run)).names if original else ()
    return card(RunDirectory(run), 0, Repository("me/net", original=original, outputs=outputs))


@pytest.mark.parametrize(
    ("name", "title", "library"),
    [
        ("smp-fpn", "`segmentation_models_pytorch FPN, resnet18`", "segmentation-models-pytorch"),
        ("transformers-segformer", "`transformers SegformerForSemanticSegmentation`", "transformers"),
        ("torchvision-lraspp", "`torchvision lraspp_mobilenet_v3_large`", "torchvision"),
    ],
)
def test_the_code_of_the_original_form_gives_our_labels(name, title, library, tmp_path, monkeypatch):
    run, image = imported(name, tmp_path), noise(70, 90)
    balance(run, image)
    text, module = card_of(run, original=True), as_original(open_trained(run)).module
    assert f"Network: {title}." in text
    assert f"library_name: {library}" in text
    assert "DeepLab" not in text
    assert all(f"| {i} | {name} |" in text for i, name in enumerate(networks.NAMES))
    Image.fromarray(image).save(tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path)
    for owner in (networks.smp, networks.transformers.AutoModelForSemanticSegmentation):
        monkeypatch.setattr(owner, "from_pretrained", lambda _name: module)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *_: "model.pth")
    torch.save(module.state_dict(), "model.pth")
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1].replace("photo.jpg", "photo.png")
    found: dict = {}
    exec(code, found)
    ours = barm.load(run, device="cpu", precision="32-true").predict(image)
    assert len(np.unique(ours)) > 2
    assert np.mean(found["labels"].numpy() == ours) > 0.999


def test_a_card_says_what_images_the_network_takes(tmp_path):
    text = card_of(imported("smp-fpn", tmp_path), original=False)
    for row in (
        "mean | 0.485, 0.456, 0.406",
        "deviation | 0.229, 0.224, 0.225",
        "sides | multiples of 32, at least 64",
    ):
        assert f"| {row}" in text
    assert "3 classes and background. The network was trained elsewhere on its first 3 classes." in text
    assert "Not evaluated." in text


@pytest.mark.parametrize("recipe", ["folder/mib", "folder/finetune"])
def test_a_network_without_background_is_said_to_have_none(recipe, tmp_path):
    model = networks.segformer(tmp_path / "model", id2label=dict(enumerate(networks.NAMES[1:])))
    images = tmp_path / "images"
    images.mkdir()
    for i in range(4):
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (64, 64, 3), np.uint8)).save(images / f"{i}.png")
    import_model(model, tmp_path / "run", recipe=recipe, images=images)
    text = card_of(tmp_path / "run", original=False)
    assert "Semantic segmentation into 3 classes without background." in text


def test_a_card_of_a_module_says_that_its_class_is_needed(tmp_path):
    given = {"classifier": "head.1", "classes": networks.NAMES, "recipe": "folder/mib"}
    barm.adopt(networks.shaken(networks.Own()), tmp_path / "run", **given)
    text = card_of(tmp_path / "run", original=False)
    assert "Network: `Own`, a module of its owner's own." in text
    assert 'barm.register_network("Own", Own)' in text
    assert "BARM_NETWORKS=my.module barm predict" in text
    assert "whose own licence" not in text


def test_a_damaged_file_of_an_extension_is_named(tiny_run, tmp_path):
    """The card shows its agreement: a flipped digit must not stand there."""
    shutil.copytree(tiny_run, tmp_path / "run")
    run = RunDirectory(tmp_path / "run")
    told = {"from": "x", "step": 0, "learned": ["a"], "agreement": {"b": 0.5, "c": None}}
    checksums.replace(run.path, {"extension.json": json.dumps(told).encode()})
    assert "gives the same to 50.0 % in the mean" in card_of(run.path, original=False)
    file = run.path / "extension.json"
    file.write_text(file.read_text().replace("0.5", "0.9"))
    with pytest.raises(UserError, match=r"extension\.json is damaged"):
        card_of(run.path, original=False)


def test_what_was_not_measured_is_left_out():
    nothing = {"old": None, "new": None, "all": None}
    first = {"step": 0, "learned": ["car"], "miou": nothing, "forgetting": 0.0}
    second = {"step": 1, "learned": ["lamp"], "miou": {**nothing, "new": 0.5}, "forgetting": None}
    first["class_iou"], second["class_iou"] = {"car": None}, {"background": None, "car": None, "lamp": 0.5}
    text = _scores([first, second], 1)
    assert "| step | learned | new |\n| --- | --- | --- |\n| 1 | lamp | 50.0 |" in text
    assert (
        "| class | IoU |\n| --- | --- |\n| lamp | 50.0 |\n\nNot measured, for want of labels: background, car." in text
    )
    assert "labels: car." in _scores([first, second], 1, background=False)
    assert "lost" not in text
    assert _scores([first], 0).endswith("Not evaluated.")
