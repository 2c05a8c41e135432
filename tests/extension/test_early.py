"""What is wrong with an extension is told before torch is loaded, where names and places tell it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import barm
from barm.data.sources.shapes import class_names
from barm.data.sources.shapes_disk import make_shapes
from barm.errors import UserError
from barm.extension.early import ModelOptions, check_early

sys.path.insert(0, str(Path(__file__).parents[1] / "weights" / "foreign"))
import networks

NEW = class_names(1)[0]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A network, and images of a new class."""
    root = tmp_path_factory.mktemp("early")
    make_shapes(root / "data", num_train=4, num_val=1, size=(48, 48), seed=3, only=[NEW], workers=0)
    networks.segformer(root / "net")
    (root / "there").mkdir()
    (root / "there/notes.txt").write_text("mine")
    (root / "made-base").mkdir()
    (root / "made-base/notes.txt").write_text("mine")
    return root


WRONG = [
    ({"out": "there"}, "exists already.*resume=True"),
    ({"out": "made"}, "made-base exists already"),
    ({"out": "none", "resume": True}, "nothing to resume.*resume=True"),
    ({"model": ModelOptions(background="blue")}, "no class 'blue': give one of background, sky, road, car, or none"),
    ({"model": ModelOptions(class_names=["a", "b"])}, "4 outputs, found 2 class names: expected 4 names, or 3"),
    ({"model": ModelOptions(images="nowhere")}, "no folder nowhere.*--calibrate"),
    ({"classes": ["car"]}, f"knows 'car' already.*{NEW}"),
    ({"classes": ["lamp"]}, "no class 'lamp'"),
    ({"classes": [NEW, NEW]}, "given twice"),
    ({"data": "nowhere"}, "no folder"),
    ({"val": ["nowhere"]}, "no folder nowhere.*--val"),
    ({"recipe": "folder/nope"}, "unknown recipe"),
    ({"overrides": ["base.epochs=3"]}, r"settled \[base\]"),
    ({"step": 7}, "network without steps"),
    ({"run": "nothing", "model": ModelOptions(background="none")}, "nothing is no file or folder: check the path"),
]


@pytest.mark.parametrize(("wrong", "message"), WRONG)
def test_names_and_places_are_enough(wrong, message, place, monkeypatch):
    monkeypatch.chdir(place)
    given = {"run": "net", "data": "data", "classes": [NEW], **wrong}
    before = sorted(place.iterdir())
    with pytest.raises(UserError, match=message) as caught:
        check_early(**given)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError) as again:
        barm.extend(**given, quiet=True)
    assert str(again.value) == str(caught.value)
    assert sorted(place.iterdir()) == before


def test_options_of_networks_are_refused_for_a_run(place, tmp_path):
    (tmp_path / "config.toml").write_text("")
    with pytest.raises(UserError, match=r"no network of another library.*leave them out"):
        check_early(tmp_path, place / "data", [NEW], model=ModelOptions(activation="sigmoid"))


def test_torch_is_not_loaded(place):
    import subprocess

    code = (
        "import sys, barm.cli.extend, barm.extension.early as early\n"
        "try: early.check_early('net', 'data', ['car'])\n"
        "except Exception as error: print(error)\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=place, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "False", done.stdout + done.stderr
    assert "knows 'car' already" in done.stdout


@pytest.mark.parametrize(
    ("recipe", "settings", "message"),
    [
        ("folder/joint", [], "joint training needs the labels of all classes.*does not label 'sky'"),
        ("folder/barm", ["method.memory.size=10"], "kept old images.*--recipe folder/barm"),
        ("folder/barm", ["increment.epohcs=1"], "did you mean 'epochs'"),
    ],
)
def test_a_method_is_refused_before_the_network_is_read(recipe, settings, message, place, monkeypatch):
    monkeypatch.setattr("barm.extension.imported.import_model", lambda *_, **__: pytest.fail("the network was read"))
    monkeypatch.chdir(place)
    with pytest.raises(UserError, match=message):
        barm.extend("net", "data", [NEW], out="new", recipe=recipe, overrides=settings, quiet=True)


def test_a_right_request_passes(place, monkeypatch):
    monkeypatch.chdir(place)
    check_early(
        "net",
        "data",
        [NEW],
        recipe="folder/mib",
        model=ModelOptions(background="background"),
        overrides=["model.mean=[0,0,0]"],
    )
    check_early("hf://owner/net", "data", [NEW])
