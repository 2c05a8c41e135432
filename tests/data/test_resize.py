"""Smaller copies of a data set train in its place."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from barm.cli import app
from barm.data.check import check_folder
from barm.data.resize import resize_folder
from barm.data.sources import open_source
from barm.errors import UserError


@pytest.fixture
def own(tmp_path):
    """Images of 60 x 40 in blocks of 4 pixels, masks whose values `classes.toml` translates; one image is smaller."""
    root, rng = tmp_path / "own", np.random.default_rng(0)
    for split, names in (("train", ("a", "deep/b", "tiny")), ("val", ("c",))):
        for name in names:
            w, h = (24, 16) if name == "tiny" else (60, 40)
            mask = np.array([0, 50, 200], np.uint8)[rng.integers(0, 3, (h // 4, w // 4))].repeat(4, 0).repeat(4, 1)
            image = rng.integers(0, 256, (h // 4, w // 4, 3), np.uint8).repeat(4, 0).repeat(4, 1)
            kinds = ("images", image, ".jpg"), ("masks", mask, ".png"), ("saliency", mask, ".png")
            for kind, values, suffix in kinds:
                path = root / kind / split / f"{name}{suffix}"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(values).save(path)
    (root / "classes.toml").write_text('[values]\n0 = "background"\n50 = "left"\n200 = "right"\n')
    return root


def test_images_masks_and_maps_get_smaller_and_keep_their_classes(own, tmp_path):
    done = resize_folder(own, tmp_path / "small", 30)
    assert done == ({"train": 3, "val": 1}, 3)
    assert check_folder(tmp_path / "small").problems == ()
    for split in ("train", "val"):
        before, after = open_source("folder", own, split), open_source("folder", tmp_path / "small", split)
        assert after.names == before.names
        assert after.class_names == before.class_names == ("background", "left", "right")
        for i, name in enumerate(after.names):
            old, new = before[i], after[i]
            wide = name == "tiny"
            assert new.image.size == ((24, 16) if wide else (30, 20))
            ids = np.asarray(old.mask)
            assert np.array_equal(np.asarray(new.mask), ids if wide else ids[1::2, 1::2])
            assert new.extras.keys() == old.extras.keys()
    assert np.asarray(open_source("folder", tmp_path / "small", "train")[2].mask).any()


def test_an_image_that_is_small_already_is_copied(own, tmp_path):
    resize_folder(own, tmp_path / "small", 30)
    kept = "images/train/tiny.jpg"
    assert (tmp_path / "small" / kept).read_bytes() == (own / kept).read_bytes()


def test_a_photograph_that_lies_on_its_side_is_written_upright(own, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 60)).save(own / "images/val/c.jpg", exif=exif)
    resize_folder(own, tmp_path / "small", 30)
    with Image.open(tmp_path / "small/images/val/c.jpg") as image:
        assert image.size == (30, 20)
        assert 0x0112 not in image.getexif()


def test_nothing_is_left_behind_by_a_file_that_cannot_be_read(own, tmp_path):
    (own / "images/val/c.jpg").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"c\.jpg"):
        resize_folder(own, tmp_path / "small", 30)
    assert [path.name for path in tmp_path.iterdir()] == ["own"]


def test_the_command(own, tmp_path):
    words = ["data", "resize", str(own), "--out", str(tmp_path / "small"), "--longest"]
    done = CliRunner().invoke(app, [*words, "30"])
    told = "4 images (3 train and 1 val), at most 30 pixels a side; 3 made smaller, the others copied"
    assert done.output == f"{tmp_path / 'small'}: {told}\n"
    for number, what in (("30", "is there already"), ("8", "too small: expected at least 16")):
        again = CliRunner().invoke(app, [*words, number])
        assert isinstance(again.exception, UserError)
        assert what in str(again.exception)
