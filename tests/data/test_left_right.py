"""Which class names tell left from right."""

from __future__ import annotations

import pytest

from barm.data.left_right import flip_warning, mirror_warning, sided
from barm.data.palette import published


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("left_mirror", "right_mirror"),
        ("front_left_door", "front_right_door"),
        ("mirror L", "mirror R"),
        ("door-lh", "door-rh"),
        ("LeftLung", "RightLung"),
        ("lungleft", "lungright"),
        ("Spiegel links", "Spiegel rechts"),
        ("linker Arm", "rechter Arm"),
        ("main gauche", "main droite"),
        ("bras gauche", "bras droit"),
        ("mano izquierda", "mano derecha"),
        ("LEFT", "right"),
        ("FL_door", "FR_door"),
        ("wheel BL", "wheel BR"),
        ("wheel-rl", "wheel-rr"),
        ("Spiegel_li", "Spiegel_re"),
    ],
)
def test_pairs(one, other):
    assert sided(["car", one, "hood", other]) == ((one, other),)
    assert sided([other, "hood", one]) == ((other, one),)


def test_four_corners():
    assert sided(["FL", "FR", "RL", "RR"]) == (("FL", "FR"), ("RL", "RR"))


def test_a_word_without_its_counterpart():
    assert sided(["left_mirror", "hood"]) == (("left_mirror",),)


@pytest.mark.parametrize(
    "name",
    ["bright light", "copyright", "L", "model l", "cleft", "linkage", "birds", "R", "FL_door", "br", "Spiegel_re"],
)
def test_what_is_no_side(name):
    assert sided(["car", name]) == ()


def test_the_published_classes_have_no_sides():
    assert sided(published("voc")[0]) == ()
    assert sided(published("ade")[0]) == ()


def test_one_line():
    names = [f"{side}_{part}" for part in ("mirror", "door", "light", "wheel", "lamp") for side in ("left", "right")]
    line = flip_warning(names, ("base", "increment"))
    assert line is not None
    assert "'left_mirror'/'right_mirror', 'left_door'/'right_door' and 'left_light'/'right_light' (and 2 more)" in line
    assert line.endswith("--set base.flip=0 --set increment.flip=0")
    assert flip_warning(names, ()) is None
    assert flip_warning(["car"], ("base",)) is None
    assert "the class name 'left_mirror' tells left from right" in str(mirror_warning(["left_mirror"]))
    assert mirror_warning(["car"]) is None
