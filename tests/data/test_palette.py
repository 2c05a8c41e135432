"""Colours that people look at: far apart for every vision, thin parts visible, the data set's own in masks alone."""

from __future__ import annotations

import numpy as np
import pytest

from barm.data.palette import GROUNDS, OVERLAY, VISIONS, contrast, display_colours, display_palette, id_palette, oklab
from barm.report.figures import overlay

FIRST = 20  # classes, as many as VOC has
LEAST = {"normal": 0.11, "protanopia": 0.059, "deuteranopia": 0.059}
TINTED = {8: {"normal": 0.15, "protanopia": 0.069, "deuteranopia": 0.08}}  # first classes -> distance over any ground
TINTED[FIRST] = {"normal": 0.085, "protanopia": 0.039, "deuteranopia": 0.039}


def over(ground: int, number: int) -> np.ndarray:
    """The first classes' colours inside an overlay of an image of one grey, `(number, 3)`."""
    side = 24
    label = np.arange(1, number + 1, dtype=np.uint8).repeat(side)[None].repeat(side, 0)
    image = np.full((*label.shape, 3), ground, np.uint8)
    return overlay(image, label, display_palette())[side // 2, side // 2 :: side]


@pytest.mark.parametrize("ground", GROUNDS)
@pytest.mark.parametrize("number", TINTED)
@pytest.mark.parametrize("vision", VISIONS)
def test_no_two_of_the_first_colours_look_alike_over_an_image(vision, number, ground):
    assert len(over(ground, number)) == number
    assert contrast(over(ground, number), vision) > TINTED[number][vision]


def test_the_first_colours_have_different_hues_or_lightness():
    """In normal vision: 20 degrees of hue or a fifth of the way from black to white between any two of ten."""
    lightness, a, b = oklab(display_palette()[1:11]).T
    angle = np.degrees(np.arctan2(b, a))
    turned = np.abs((angle[:, None] - angle[None] + 180) % 360 - 180)
    apart = (turned > 20) | (np.abs(lightness[:, None] - lightness[None]) > 0.2)
    assert apart[~np.eye(10, dtype=bool)].all()


def test_the_image_is_seen_below_a_tint():
    assert 0.5 < OVERLAY <= 0.7
    dark, light = over(64, FIRST), over(192, FIRST)
    assert np.linalg.norm(oklab(light) - oklab(dark), axis=-1).min() > 0.06


@pytest.mark.parametrize("vision", VISIONS)
def test_no_two_of_the_first_colours_look_alike(vision):
    shown, published = (contrast(table[1 : FIRST + 1], vision) for table in (display_palette(), id_palette()))
    assert shown > LEAST[vision]
    assert shown > 3 * published


@pytest.mark.parametrize("vision", VISIONS)
def test_no_colour_is_lost_against_black_grey_and_white(vision):
    grounds = np.array([[grey] * 3 for grey in (0, 128, 255)])
    table = display_palette()[1 : FIRST + 1]
    apart = np.linalg.norm(oklab(table, vision)[:, None] - oklab(grounds, vision)[None], axis=-1)
    assert apart.min() > LEAST[vision]
    published = oklab(id_palette()[1 : FIRST + 1], vision)[:, None] - oklab(grounds, vision)[None]
    assert np.linalg.norm(published, axis=-1).min() < 1e-6  # the seventh is grey itself


def test_the_first_classes_have_the_most_contrast():
    values = [min(contrast(display_palette()[1 : number + 1], vision) for vision in VISIONS) for number in (5, 10, 20)]
    assert values == sorted(values, reverse=True)
    assert len(np.unique(display_palette()[:255], axis=0)) == 255
    assert not display_palette().flags.writeable


def test_a_class_keeps_its_colour_when_others_follow():
    first = display_colours(["background", "cat", "dog"])
    assert {name: display_colours([*first, "lamp"])[name] for name in first} == first
    assert len(set(display_colours(map(str, range(300))).values())) == 255


def test_thin_parts_are_outlined_and_the_image_stays_visible():
    image = np.random.default_rng(0).integers(60, 190, (240, 320, 3), np.uint8)
    label = np.zeros((240, 320), np.uint8)
    label[20:220, 100] = 1  # a pole of one pixel
    label[50:150, 150:300] = 2
    label[150:200, 150:300] = 255
    seen = overlay(image, label, display_palette()).astype(int)
    assert (seen[20:220, 100] == display_palette()[1]).all()
    assert (seen[20:220, 99] < 0.5 * image[20:220, 99] + 1).all()
    np.testing.assert_array_equal(seen[160:190, 160:290], image[160:190, 160:290])
    np.testing.assert_array_equal(seen[:10], image[:10])
    inside = seen[60:140, 160:290]
    light = image[60:140, 160:290] @ np.array([0.299, 0.587, 0.114])
    assert np.corrcoef(inside.sum(-1).ravel(), light.ravel())[0, 1] > 0.99
    np.testing.assert_array_equal(overlay(image, label, display_palette(), 0), image)
