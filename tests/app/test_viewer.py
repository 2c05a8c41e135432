"""Images that somebody uploads: what is taken, scaled and refused."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from barm.app.viewer import Limits, Refused, prepare, read_upload
from barm.data.images import to_rgb


def saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def test_the_whole_image_is_taken_as_it_is(tmp_path):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8))
    taken = read_upload(saved(tmp_path / "a.png", image), Limits())
    assert np.array_equal(taken.pixels, np.asarray(image))
    assert taken.remarks == ()
    assert taken.key != read_upload(saved(tmp_path / "b.png", image.rotate(180)), Limits()).key


@pytest.mark.parametrize(
    ("limits", "size", "message"),
    [
        (Limits(megabytes=5e-5), (64, 64), "at most 5e-05 MB"),
        (Limits(pixels=4000), (64, 64), "64 x 64 = 4,096 pixels; at most 4,000 are"),
        (Limits(), (15, 64), "15 x 64 pixels; expected at least 16 on each side"),
        (Limits(shrink_to=1000), (1000, 17), "1000 x 17 pixels, scaled 242 x 4; expected"),
    ],
)
def test_refused(tmp_path, limits, size, message):
    with pytest.raises(Refused, match=message) as caught:
        read_upload(saved(tmp_path / "a.png", Image.new("RGB", size)), limits)
    assert str(tmp_path) not in str(caught.value)


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path):
    content = io.BytesIO()
    Image.new("1", (14_000, 14_000)).save(content, "PNG")  # 196 million pixels in a few kB
    (tmp_path / "bomb.png").write_bytes(content.getvalue())
    with pytest.raises(Refused, match="178,000,000 pixels"):
        read_upload(tmp_path / "bomb.png", Limits(pixels=10**9))


@pytest.mark.parametrize("content", [b"", b"no image", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", None])
def test_what_is_no_image_is_refused(tmp_path, content):
    if content is None:  # an image cut short
        whole = io.BytesIO()
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(whole, "PNG")
        content = whole.getvalue()[:2000]
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(Refused, match="cannot be read as an image"):
        read_upload(tmp_path / "a.png", Limits())


def test_large_images_are_scaled_and_it_is_said(tmp_path):
    image = read_upload(saved(tmp_path / "a.png", Image.new("RGB", (400, 100))), Limits(shrink_to=10_000))
    assert image.pixels.shape == (50, 200, 3)
    assert image.remarks == ("Scaled from 400 x 100 to 200 x 50 pixels for the network.",)


def test_orientation_and_frames(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rows are columns
    upright = read_upload(saved(tmp_path / "a.jpg", Image.new("RGB", (40, 20)), exif=exif), Limits())
    assert upright.pixels.shape == (40, 20, 3)
    frames = [Image.new("RGB", (20, 20), c) for c in ("red", "blue", "lime")]
    path = saved(tmp_path / "a.gif", frames[0], save_all=True, append_images=frames[1:])
    moving = read_upload(path, Limits())
    assert (moving.pixels == [255, 0, 0]).all()
    assert moving.remarks == ("Only the first of its 3 frames is looked at.",)


@pytest.mark.parametrize(
    ("image", "expected", "remark"),
    [
        (Image.fromarray(np.array([[0, 32896, 65535]], np.uint16)), [0, 128, 255], ("deep",)),
        (Image.fromarray(np.array([[7, 8, 9]], np.uint8)), [7, 8, 9], ()),
        (Image.fromarray(np.array([[[9, 0], [9, 255], [9, 255]]], np.uint8), "LA"), [255, 9, 9], ("white",)),
        (Image.new("CMYK", (3, 1)), [255, 255, 255], ()),
        (Image.new("1", (3, 1)), [0, 0, 0], ()),
    ],
)
def test_all_modes_become_rgb(image, expected, remark):
    rgb, said = to_rgb(image)
    assert rgb.mode == "RGB"
    assert np.asarray(rgb)[0, :, 0].tolist() == expected
    assert said == remark


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_numbers_without_a_white_are_refused(kind):
    with pytest.raises(Refused, match="nothing says which of them is white"):
        prepare(Image.fromarray(np.zeros((20, 20), kind)), Limits())
