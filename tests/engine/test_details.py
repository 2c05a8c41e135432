"""What `barm evaluate --details` says, against the predictions themselves."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import barm
from barm.api import evaluate, fit
from barm.cli import app
from barm.config import load_config
from barm.engine.checkpoint.directory import COUNTS, RunDirectory
from barm.engine.details import BINS, BORDER, confused
from barm.methods import METHODS
from barm.metrics import calibration_error, class_iou, confusion_counts, near_borders, reliability


@pytest.fixture(scope="module")
def run(tmp_path_factory, shapes_voc, tiny_settings) -> Path:
    path = tmp_path_factory.mktemp("details") / "run"
    settings = [*tiny_settings, "evaluation.crop=0"]
    fit(barm.load_config("shapes/3-1/barm", settings, {"data": {"root": str(shapes_voc)}}), out=path, quiet=True)
    return path


def test_a_border_has_its_width_on_both_sides_and_255_makes_one():
    """VOC draws a ring of 255 around every object, so that no class is near another one."""
    label = torch.zeros(1, 9, 12, dtype=torch.long)
    label[..., 6:] = 2
    label[:, 0] = 255
    found = near_borders(label, 2)
    assert torch.equal(found[0, 3:], torch.tensor([0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0]).bool().expand(6, -1))
    assert found[:, :3].all()


def test_borders_are_those_of_a_dilation():
    label = np.random.default_rng(0).integers(0, 3, (6, 7)).repeat(8, 0).repeat(8, 1)
    for width in (1, 3):
        square = np.ones((2 * width + 1,) * 2, np.uint8)
        expected = np.zeros(label.shape, bool)
        for c in range(3):
            expected |= (label == c) & cv2.dilate((label != c).astype(np.uint8), square).astype(bool)
        assert np.array_equal(near_borders(torch.from_numpy(label)[None], width)[0].numpy(), expected)


def test_calibration_by_hand():
    sure = torch.tensor([0.95, 0.95, 0.55, 0.55, 1.0, 0.5])
    right = torch.tensor([1, 0, 1, 1, 1, 255])
    bins = reliability(sure, torch.ones(6, dtype=torch.long), right, 2, 10)
    assert bins[:, 0].tolist() == [0, 0, 0, 0, 0, 2, 0, 0, 0, 3]
    assert calibration_error(bins) == pytest.approx((abs(2 - 1.1) + abs(2 - 2.9)) / 5)


def test_confusions_are_shares_of_the_true_class():
    counts = torch.tensor([[90, 10, 0], [5, 5, 0], [0, 0, 0]])
    first, second = confused(counts, ["background", "left", "right"])
    assert first == {"truth": "left", "prediction": "background", "share": 0.5}
    assert second == {"truth": "background", "prediction": "left", "share": 0.1}


def test_details_are_those_of_the_predicted_masks(run, shapes_voc):
    found = evaluate(run, details=True, precision="32-true", quiet=True)["details"]
    model = barm.load(run, precision="32-true")
    names = (shapes_voc / "ImageSets/Segmentation/val.txt").read_text().split()
    counts = torch.zeros(2, 5, 5, dtype=torch.int64)
    for name in names:
        label = torch.from_numpy(np.array(Image.open(next(shapes_voc.glob(f"SegmentationClass*/{name}.png"))))).long()
        image = np.array(Image.open(shapes_voc / f"JPEGImages/{name}.jpg"))
        prediction = torch.from_numpy(model.predict(image))
        border = near_borders(label[None], BORDER)[0]
        counts[0] += confusion_counts(prediction, label.where(border, 255), 5)
        counts[1] += confusion_counts(prediction, label.where(~border, 255), 5)
    for key, part in zip(("border_miou", "inner_miou"), counts, strict=True):
        shown = (part.sum(1) > 0).numpy()
        assert found[key] == pytest.approx(class_iou(part)[shown].mean())
    pixels = [b["pixels"] for b in found["bins"]]
    assert len(pixels) == BINS
    assert sum(pixels) == counts.sum()
    right = sum(b["pixels"] * b["accuracy"] for b in found["bins"])
    assert right == pytest.approx(float(counts.sum(0).diag().sum()))


def test_the_command_says_it_in_sentences(run):
    done = CliRunner().invoke(app, ["evaluate", str(run), "--details", "--quiet"])
    assert done.exit_code == 0
    assert "mIoU at most 3 pixels from another class " in done.output
    assert "expected calibration error " in done.output
    assert "details" not in evaluate(run, quiet=True)


@pytest.mark.others(
    *("dft", "dkd-m", "finetune", "ilt", "joint", "lwf", "mib-ewf", "plop", "plop-ewf", "rcil", "ssul-m", "star-m")
)
@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_is_measured_by_the_labels_that_it_predicts(
    name, shapes_voc, tiny_settings, tmp_path, monkeypatch
):
    settings = [*tiny_settings, "runtime.workers=0"]
    fit(
        load_config(f"shapes/3-1/{name}", settings, {"data": {"root": str(shapes_voc)}}),
        out=tmp_path / "run",
        quiet=True,
    )
    seen = list[torch.Tensor]()
    monkeypatch.setattr("barm.engine.details.confused", lambda counts, names: seen.append(counts) or [])
    found = evaluate(tmp_path / "run", details=True, quiet=True)
    assert seen[0].tolist() == RunDirectory(tmp_path / "run").read(1, COUNTS)
    assert all(0 <= b["probability"] <= 1 for b in found["details"].get("bins", ()))


def test_scores_that_are_no_probabilities_have_no_calibration(tmp_path, shapes_voc, tiny_settings):
    config = barm.load_config("shapes/3-1/segacil", tiny_settings, {"data": {"root": str(shapes_voc)}})
    fit(config, out=tmp_path / "run", quiet=True)
    found = evaluate(tmp_path / "run", details=True, quiet=True)["details"]
    assert "border_miou" in found
    assert "calibration_error" not in found
