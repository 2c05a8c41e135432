"""Photographs that EXIF data turn: one reading everywhere, and masks that fit only the other one are told apart."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import barm
from barm.data.check import check_folder
from barm.data.dataset import EvalDataset, StepDataset
from barm.data.decoded import DecodedSource
from barm.data.index import checked
from barm.data.sources import open_source
from barm.data.transforms import EvalTransform, TrainTransform
from barm.errors import UserError
from barm.labels import INCREMENTAL, TaskPlan

DOCUMENT = Path(__file__).parents[2] / "docs/data.md"
PLAN = TaskPlan.parse("offline", 1)
BACK = {6: Image.Transpose.ROTATE_90, 3: Image.Transpose.ROTATE_180, 8: Image.Transpose.ROTATE_270}


def scene(width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """A bright square in one corner, and its mask, upright."""
    image, mask = np.full((height, width, 3), 40, np.uint8), np.zeros((height, width), np.uint8)
    image[4:20, 4:20], mask[4:20, 4:20] = 220, 1
    return image, mask


def photographs(root: Path, orientation: int, *, size=(64, 48), raw_masks: bool = False, count: int = 4) -> Path:
    """A folder of photographs that lie on their side in the file."""
    (root / "classes.txt").parent.mkdir(parents=True, exist_ok=True)
    (root / "classes.txt").write_text("square\n")
    image, mask = scene(*size)
    stored = Image.fromarray(image).transpose(BACK[orientation])
    exif = Image.Exif()
    exif[274] = orientation
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            (root / kind / split).mkdir(parents=True)
        for i in range(count):
            stored.save(root / f"images/{split}/{split}{i}.jpg", exif=exif, quality=95)
            labels = Image.fromarray(mask)
            labels = labels.transpose(BACK[orientation]) if raw_masks else labels
            labels.save(root / f"masks/{split}/{split}{i}.png")
    return root


@pytest.mark.parametrize("orientation", BACK)
def test_training_evaluation_and_cache_see_what_prediction_sees(orientation, tmp_path):
    root = photographs(tmp_path / "own", orientation)
    train, val = (checked(open_source("folder", root, split)) for split in ("train", "val"))
    upright = np.asarray(barm.read_image(train.images[0]))
    assert upright.shape == (48, 64, 3)
    assert train.sizes[0] == (64, 48)
    for source in (train, DecodedSource(train, 1 << 20)):
        np.testing.assert_array_equal(np.asarray(source[0].image), upright)
        assert source[0].mask.getpixel((10, 10)) == 1
    image, label, _ = EvalDataset(val, PLAN, PLAN[0], INCREMENTAL, EvalTransform(None))[0]
    np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), upright)
    assert int(image[0][label == 1].min()) > 150 > 100 > int(image[0][label == 0].float().median())
    dataset = StepDataset(train, PLAN, PLAN[0], INCREMENTAL, TrainTransform(48, scale=(1.0, 1.0)), seed=1)
    image, label, _ = dataset[(0, 0)]
    inside = torch.as_tensor(label == 1)
    assert inside.sum() > 50
    assert float(image[0][inside].float().mean()) > 180  # the bright square is under its label


def test_a_mask_drawn_on_its_side_is_told_apart(tmp_path):
    root = photographs(tmp_path / "own", 6, raw_masks=True)
    says = r"mask is 48x64 as the image is stored, but upright \(EXIF orientation 6\) it is 64x48; turn the mask"
    with pytest.raises(UserError, match=says):
        checked(open_source("folder", root, "train"))
    assert check_folder(root).verdict.startswith("8 problems: ")


def test_where_sizes_do_not_tell_images_are_counted(tmp_path):
    """Upside down or square, the mask is taken to lie over the upright image, and the check says so."""
    report = check_folder(photographs(tmp_path / "a", 3))
    assert report.verdict == "no problems"
    assert "train: 4 images turned upright by their EXIF data" in report.notes
    assert any("4 do not tell by their size" in note for note in report.notes)
    square = check_folder(photographs(tmp_path / "b", 8, size=(48, 48)))
    assert any("4 do not tell by their size" in note for note in square.notes)
    told = check_folder(photographs(tmp_path / "c", 6))
    assert not any("do not tell" in note for note in told.notes)


def test_what_was_remembered_of_another_reader_is_found_out_anew(tmp_path, monkeypatch):
    """An index and decoded images of a program that did not turn images are not taken up."""
    monkeypatch.setenv("BARM_CACHE", str(tmp_path / "cache"))
    source = open_source("folder", photographs(tmp_path / "own", 3), "train")
    with monkeypatch.context() as older:
        for module in ("index", "decoded"):
            older.setattr(f"barm.data.{module}.READER", 1)
        older.setattr("barm.data.images._TURNS", {})
        lying = checked(source)
        assert np.asarray(DecodedSource(lying, 1 << 20)[0].image)[10, 10].max() < 100
        assert check_folder(source.root).notes == ()
    assert np.asarray(DecodedSource(checked(source), 1 << 20)[0].image)[10, 10].min() > 150
    assert any("turned upright" in note for note in check_folder(source.root).notes)


def test_a_mask_with_an_orientation_of_its_own(tmp_path):
    root = photographs(tmp_path / "own", 6)
    exif = Image.Exif()
    exif[274] = 6
    path = root / "masks/train/train0.png"
    Image.open(path).copy().save(path, exif=exif)
    with pytest.raises(UserError, match="the mask has EXIF data that turn it"):
        checked(open_source("folder", root, "train"))


def test_the_document_turns_masks(tmp_path, monkeypatch):
    """The lines in docs/data.md make of masks drawn on their side such that fit."""
    monkeypatch.chdir(tmp_path)
    root = photographs(tmp_path / "own", 6, raw_masks=True)
    block = next(
        b for b in re.findall(r"```python\n(.*?)```", DOCUMENT.read_text("utf-8"), re.S) if "exif_transpose" in b
    )
    exec(compile(block, "docs/data.md", "exec"), {})
    assert check_folder(root).verdict == "no problems"
    sample = checked(open_source("folder", root, "train"))[0]
    np.testing.assert_array_equal(np.asarray(sample.mask), scene(64, 48)[1])
