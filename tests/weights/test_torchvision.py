"""torchvision's DeepLabV3 as the first step of a run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models.segmentation import deeplabv3_resnet50
from typer.testing import CliRunner

from barm.cli import app
from barm.data.sources import open_source
from barm.data.sources.shapes import class_names
from barm.data.sources.shapes_disk import make_shapes
from barm.engine.checkpoint.directory import METHOD, RunDirectory
from barm.engine.checkpoint.network import load_step
from barm.errors import UserError
from barm.extension.run import extend
from barm.models.inputs import InputRule, Normalise
from barm.predict.model import load
from barm.weights.calibrate import calibration_error, excess
from barm.weights.torchvision import import_torchvision

KNOWN = class_names(3)
SMALL = ("evaluation.crop=64", "runtime.precision=32-true", "runtime.workers=0", "runtime.tensorboard=false")


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("images") / "data"
    make_shapes(root, num_classes=3, num_train=24, num_val=4, size=(64, 64), seed=2)
    return root


def tensors(root: Path, split: str, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    source = open_source("folder", root, split)
    samples = [source[i] for i in range(count)]
    images = torch.stack([torch.from_numpy(np.array(s.image)).permute(2, 0, 1) for s in samples])
    return Normalise(InputRule())(images), torch.stack([torch.from_numpy(np.array(s.mask)) for s in samples]).long()


@pytest.fixture(scope="module")
def network(images) -> nn.Module:
    """torchvision's own model: random weights and statistics, and a classifier trained for a moment with softmax."""
    torch.manual_seed(0)
    model = deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=4, aux_loss=True)
    images, labels = tensors(images, "train", 24)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # plain averages over what it sees
            nn.init.uniform_(module.weight, 0.8, 1.2)
            nn.init.uniform_(module.bias, -0.1, 0.1)
    with torch.no_grad():
        model.train()(images[:8])
        features = nn.Sequential(*list(model.eval().classifier)[:4])(model.backbone(images)["out"])
    head = model.classifier[4]
    small = F.interpolate(labels[:, None].float(), size=features.shape[2:], mode="nearest")[:, 0].long()
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(head(features), small, ignore_index=255).backward()
        optimizer.step()
    return model.eval()


@pytest.fixture(scope="module")
def imported(network, images, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("imported")
    torch.save(network.state_dict(), folder / "tv.pth")
    (folder / "names.txt").write_text("\n".join(KNOWN), "utf-8")
    import_torchvision(
        folder / "tv.pth", folder / "run", images=images, names_file=folder / "names.txt", overrides=SMALL
    )
    return folder / "run"


def test_it_is_the_same_network(network, imported, images):
    """Scores differ from torchvision's logits by one scale and one offset per pixel, and by nothing else."""
    ours, _ = load_step(RunDirectory(imported), 0)
    images, _ = tensors(images, "val", 3)
    scale = json.loads((imported / "step00" / "calibration.json").read_text())["scale"]
    with torch.no_grad():
        theirs = network.classifier(network.backbone(images)["out"])
        scores = ours(images).logits
    assert theirs.std() > 0.5, "the network says nothing: the test shows nothing"
    centred = [t - t.mean(dim=1, keepdim=True) for t in (scale * theirs, scores)]
    torch.testing.assert_close(*centred, rtol=0, atol=1e-4)
    with torch.no_grad():
        whole = network(images)["out"]
    upsampled = F.interpolate(theirs, size=images.shape[2:], mode="bilinear", align_corners=False)
    torch.testing.assert_close(whole, upsampled, rtol=0, atol=1e-6)


def test_scores_become_probabilities(network, imported, images):
    """On images that the calibration never saw."""
    ours, _ = load_step(RunDirectory(imported), 0)
    images, _ = tensors(images, "val", 4)
    with torch.no_grad():
        logits = network.classifier(network.backbone(images)["out"]).transpose(0, 1).flatten(1).T
        scores = ours(images).logits.transpose(0, 1).flatten(1).T
    target = logits.softmax(dim=1)
    assert excess(scores, target) < 0.1 * excess(logits, target)
    assert calibration_error(scores, target) < 0.02 < calibration_error(logits, target)
    assert torch.equal(scores.argmax(1), logits.argmax(1))
    told = json.loads((imported / "step00" / "calibration.json").read_text())
    assert told["fitted"] == 21
    assert told["held_out"] == 7
    assert told["excess_after"] < 0.1 * told["excess_before"]
    assert told["agreement"] > 0.95


def test_it_learns_a_new_class(imported, tmp_path):
    new = tmp_path / "new"
    make_shapes(new, num_classes=3, only=["green-plain-heart"], num_train=2, num_val=1, size=(64, 64), seed=4)
    settings = ["increment.epochs=1", "increment.batch_size=2", "increment.crop=64", "evaluation.crop=64"]
    result = extend(imported, new, out=tmp_path / "run", overrides=settings, quiet=True)
    assert list(result["class_iou"]) == ["background", *KNOWN, "green-plain-heart"]
    assert result["agreement"] is not None
    assert load(tmp_path / "run").class_names[-1] == "green-plain-heart"


def test_command_line_finds_out_whose_file_it_is(network, images, tmp_path):
    torch.save({"model": network.state_dict(), "epoch": 3}, tmp_path / "tv.pth")
    arguments = ["weights", "import", str(tmp_path / "tv.pth"), "--out", str(tmp_path / "run"), "--set", SMALL[0]]
    (tmp_path / "names.txt").write_text("\n".join(["__background__", *KNOWN]), "utf-8")
    named = ["--class-names", str(tmp_path / "names.txt")]
    with pytest.raises(UserError, match=r"4 outputs, VOC 21.*--class-names"):
        CliRunner().invoke(app, arguments, catch_exceptions=False)
    with pytest.raises(UserError, match="--calibrate DIR"):
        CliRunner().invoke(app, [*arguments, *named], catch_exceptions=False)
    assert not (tmp_path / "run").exists()
    few = tmp_path / "few"
    few.mkdir()
    for file in sorted((images / "images" / "train").iterdir())[:4]:
        (few / file.name).write_bytes(file.read_bytes())
    shown = CliRunner().invoke(app, [*arguments, *named, "--calibrate", str(few)], catch_exceptions=False)
    assert "fitted on 3 images, measured on 1 other:" in " ".join(shown.output.split())
    classes = RunDirectory(tmp_path / "run").read(0, METHOD)["classes"]
    assert [c["name"] for c in classes] == ["background", *KNOWN]


def test_other_networks_are_refused(tmp_path):
    torch.save({"backbone.conv1.weight": torch.zeros(1), "classifier.4.weight": torch.zeros(21, 1)}, tmp_path / "fcn")
    with pytest.raises(UserError, match="is not torchvision's deeplabv3_resnet50"):
        import_torchvision(tmp_path / "fcn", tmp_path / "run", images=tmp_path)
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(UserError, match="not a readable checkpoint"):
        import_torchvision(tmp_path / "text.pth", tmp_path / "run", images=tmp_path)
