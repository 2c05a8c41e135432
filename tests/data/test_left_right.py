"""Which class names tell left from right."""

from __future__ import annotations

from pathlib import Path

import pytest

from barm.data.left_right import flip_warning, mirror_warning, sided
from barm.data.palette import published
from barm.data.sources.shapes_disk import make_shapes

NAMES = ("left_mirror", "right_mirror")


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


def test_names_that_differ_by_capitals_are_no_sides():
    assert sided(["Cat", "cat", "Model L", "model l"]) == ()


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


@pytest.fixture
def sided_data(tmp_path) -> Path:
    """A folder with two classes that differ by left and right."""
    make_shapes(tmp_path / "own", layout="folder", num_classes=2, num_train=12, num_val=4, size=(48, 48), seed=3)
    (tmp_path / "own/classes.txt").write_text("\n".join(NAMES) + "\n")
    return tmp_path / "own"


@pytest.fixture
def train(cli, tiny_settings):
    """``barm train`` of a tiny recipe."""
    small = [word for setting in tiny_settings for word in ("--set", setting)]

    def call(*more: object) -> tuple[int, str, str]:
        return cli("train", "--recipe", "shapes/barm", "--data", "own", "--out", "run", *small, *more)

    return call


def warned(text: str) -> list[str]:
    return [line for line in text.splitlines() if "left from right" in line]


def test_data_check_warns_with_the_setting(cli, sided_data):
    status, out, _ = cli("data", "check", "own")
    (line,) = [line for line in out.splitlines() if line.startswith("! ")]
    assert status == 0
    assert "'left_mirror'/'right_mirror'" in line
    assert "--set base.flip=0 --set increment.flip=0" in line
    assert out.splitlines()[-1].startswith("no problems, 1 warning: the class names")


def test_no_warning_without_sides(cli, sided_data):
    (sided_data / "classes.txt").write_text("mirror\nhood\n")
    assert not warned(cli("data", "check", "own")[1])


def test_training_warns_once_where_it_flips(train, sided_data):
    steps = ("--group", "left_mirror", "--group", "right_mirror")
    status, _, err = train(*steps)
    assert status == 0
    (line,) = warned(err)
    assert line.endswith("turn it off with --set base.flip=0 --set increment.flip=0")


@pytest.mark.parametrize(
    ("off", "expected"),
    [(("base.flip=0",), "--set increment.flip=0"), (("base.flip=0", "increment.flip=0"), None)],
)
def test_the_warning_names_the_tables_that_flip(train, sided_data, off, expected):
    words = [word for setting in off for word in ("--set", setting)]
    status, _, err = train("--group", "left_mirror", "--group", "right_mirror", *words)
    assert status == 0
    found = warned(err)
    assert [line.partition("turn it off with ")[2] for line in found] == ([] if expected is None else [expected])


def test_predict_warns_with_flip_alone(cli, train, sided_data):
    assert train("--group", ",".join(NAMES), "--set", "base.flip=0")[0] == 0
    image = next((sided_data / "images/val").iterdir())
    status, _, err = cli("predict", "run", image, "--out", "seen", "--flip")
    assert status == 0
    (line,) = warned(err)
    assert "leave --flip out" in line
    status, out, err = cli("predict", "run", image, "--out", "seen")
    assert status == 0
    assert not warned(out + err)
