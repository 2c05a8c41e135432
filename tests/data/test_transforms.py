"""One box resize does what resizing, padding and cropping one after the other do."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from barm.data.sources.shapes import render
from barm.data.transforms import (
    Draw,
    TrainTransform,
    apply_to_image,
    apply_to_map,
    centre_crop,
    draw,
    draw_region,
    padding,
)


def one_after_the_other(
    image: Image.Image, choice: Draw, crop: int, resampling: Image.Resampling, fill: int
) -> np.ndarray:
    """The published order of operations."""
    image = image.resize(choice.size, resampling)
    pad = padding(*choice.size, crop)
    image = ImageOps.expand(image, pad, fill=fill if image.mode == "L" else 0)
    image = image.crop((choice.left, choice.top, choice.left + crop, choice.top + crop))
    return np.asarray(ImageOps.mirror(image) if choice.flip else image)


@settings(deadline=None, max_examples=150)
@given(st.integers(16, 90), st.integers(16, 90), st.integers(16, 70), st.integers(0, 10_000))
@example(32, 32, 21, 43)
@example(62, 62, 17, 74)
def test_same_as_step_by_step(width, height, crop, seed):
    rng = np.random.default_rng(seed)
    image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
    mask = rng.integers(0, 21, (height, width), dtype=np.uint8)
    choice = draw(rng, image.size, TrainTransform(crop))
    ours = apply_to_image(image, choice, crop).astype(int)
    theirs = one_after_the_other(image, choice, crop, Image.Resampling.BILINEAR, 0).astype(int)
    assert ours.shape == theirs.shape == (crop, crop, 3)
    difference = np.abs(ours - theirs)  # white noise is the worst case: rounding may meet on both axes
    assert difference.max() <= 2
    assert (difference > 1).sum() <= 8 + 1e-3 * difference.size
    expected = one_after_the_other(Image.fromarray(mask), choice, crop, Image.Resampling.NEAREST, 255)
    np.testing.assert_array_equal(apply_to_map(mask, choice, crop, 255), expected)


def test_images_agree_within_one_grey_level():
    for index in range(12):
        rng = np.random.default_rng(index)
        image = Image.fromarray(render(index, split="train", num_classes=10, size=(125, 94), seed=0).image)
        choice = draw(rng, image.size, TrainTransform(96))
        theirs = one_after_the_other(image, choice, 96, Image.Resampling.BILINEAR, 0).astype(int)
        assert np.abs(apply_to_image(image, choice, 96).astype(int) - theirs).max() <= 1


@given(st.integers(1, 600), st.integers(1, 600), st.integers(16, 513))
def test_padding_reaches_the_crop(width, height, crop):
    pad = padding(width, height, crop)
    assert width + 2 * pad >= crop
    assert height + 2 * pad >= crop
    if width >= crop and height >= crop:
        assert pad == 0


@pytest.mark.parametrize(
    ("size", "expected"),
    [((10, 20), 15), ((20, 10), 15), ((40, 30), 5), ((30, 40), 5), ((33, 38), 4), ((38, 33), 4), ((39, 40), 1)],
)
def test_padding_by_hand(size, expected):
    """Of a crop of 40. spec/ssul.md section 11: the height is looked at with the size that the width's padding left."""
    assert padding(*size, 40) == expected


def test_every_offset_of_the_crop_is_drawn():
    """Offsets are uniform up to the last one at which the crop fits: rows and columns alike, padded images too."""
    for size, last in (((44, 42), (2, 4)), ((40, 40), (0, 0)), ((20, 22), (2, 0))):
        config = TrainTransform(40, scale=(1.0, 1.0))
        rng = np.random.default_rng(0)
        drawn = [draw(rng, size, config) for _ in range(200)]
        assert {d.top for d in drawn} == set(range(last[0] + 1))
        assert {d.left for d in drawn} == set(range(last[1] + 1))


@pytest.mark.parametrize("upright", [True, False])
def test_regions_as_wide_or_as_high_as_the_image(upright):
    """spec/mib.md section 9.3: accepted where w <= W and h <= H, at any place; the fallback alone is centred.

    A twelfth part of a strip of 3 x 144 is 3 or 4 wide, so that only a part of the strip's whole width fits.
    """
    size = (3, 144) if upright else (144, 3)
    rng, config = np.random.default_rng(0), TrainTransform(64, geometry="resized_crop", scale=(1 / 36, 1 / 36))
    regions = [draw_region(rng, size, config) for _ in range(3000)]
    across = {r.width if upright else r.height for r in regions}
    places = {r.top if upright else r.left for r in regions}
    assert across == {3}
    assert {min(places), max(places)} == {0, 144 - 3}  # the first and the last place of a region 3 long


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (900, 300), (40, 400)])
def test_regions_lie_in_the_image(size):
    rng, config = np.random.default_rng(0), TrainTransform(64, geometry="resized_crop")
    regions = [draw_region(rng, size, config) for _ in range(400)]
    for region in regions:
        assert 0 <= region.left <= size[0] - region.width
        assert 0 <= region.top <= size[1] - region.height
        assert region.width * region.height > 0
        assert 0.74 <= region.width / region.height <= 1.35
    shares = [r.width * r.height / (size[0] * size[1]) for r in regions]
    if size == (500, 375):
        whole = np.mean([r.width == 500 and r.height == 375 for r in regions])
        assert 0.08 < whole < 0.25  # spec/mib.md section 9.3: about 15 % at 4:3
        assert 0.65 < np.mean(shares) < 0.8
        assert 0.4 < np.mean([r.flip for r in regions]) < 0.6


@pytest.mark.parametrize(
    ("size", "region"),
    [
        ((100, 300), (0, 83, 100, 133)),  # as high as 3:4 allows: 300 - 133 = 167 are left
        ((300, 100), (83, 0, 133, 100)),
        ((120, 100), (0, 0, 120, 100)),
    ],
)
def test_where_no_region_fits_the_largest_central_one_is_taken(size, region):
    """spec/mib.md section 9.3, Q7: shares above 1 never fit."""
    config = TrainTransform(64, geometry="resized_crop", scale=(1.5, 2.0), flip=0.0)
    assert draw_region(np.random.default_rng(0), size, config) == (*region, False)


@pytest.mark.parametrize(
    ("width", "left"), [(33, 0), (35, 2), (37, 2)], ids=["half a pixel", "one and a half", "two and a half"]
)
def test_the_centre_of_an_evaluated_image_is_rounded_half_to_even(width, left):
    image = Image.fromarray(np.arange(width, dtype=np.uint8)[None].repeat(32, 0))
    assert np.asarray(centre_crop(image, 32, Image.Resampling.NEAREST))[0, 0] == left


def test_regions_are_as_often_wide_as_high():
    """spec/mib.md section 9.3: the logarithm of the aspect ratio is uniform."""
    rng, config = np.random.default_rng(0), TrainTransform(64, geometry="resized_crop", scale=(0.1, 0.1))
    regions = [draw_region(rng, (1000, 1000), config) for _ in range(5000)]
    assert abs(np.mean([r.width > r.height for r in regions]) - 0.5) < 0.03  # 0.57 if the ratio itself were
