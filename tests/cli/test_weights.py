"""`barm weights show`, and imports of files of which little is said."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from barm.config import load_config
from barm.engine.checkpoint.directory import RunDirectory
from barm.labels import TaskPlan
from barm.models.segmenter import MODELS

sys.path.insert(0, str(Path(__file__).parents[1] / "weights" / "foreign"))
import networks

MODEL = "deeplabv3_mobilenet"


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    """An official checkpoint of SSUL after step 1 of VOC 15-1."""
    config = load_config("voc/15-1/ssul", updates={"model": {**MODELS[MODEL], "pretrained": False}})
    state = config.method.build(TaskPlan.parse("15-1", 20)[1], config.model).build_model().state_dict()
    path = tmp_path_factory.mktemp("official") / "model.pth"
    torch.save({"model_state": state, "best_score": 0.5}, path)
    return path


def test_an_official_checkpoint_says_what_it_was_trained_on(cli, official, tmp_path):
    status, out, _ = cli("weights", "import", official, "--out", "run")
    assert (status, out.split(" from ")[0]) == (0, "run: step 1 of voc 15-1")
    assert RunDirectory(tmp_path / "run").config().method.name == "ssul"
    status, _, err = cli("weights", "import", official, "--out", "other", "--step", 2)
    assert status == 2
    assert "--step 2 does not fit" in err
    assert "after step 1, groups 15, 1 (deeplabv3_mobilenet, voc 15-1 fits)" in err
    assert not (tmp_path / "other").exists()


def test_show(cli, official):
    status, out, _ = cli("weights", "show", official)
    assert status == 0
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert lines[0].endswith("groups 15, 1 (deeplabv3_mobilenet, voc 15-1 fits)")
    assert lines[1:5] == ["network deeplabv3_mobilenet", "outputs 18", "classes per step 15, 1", "step 1"]
    told = json.loads(cli("weights", "show", official, "--json")[1])
    assert (told["family"], told["use"], told["groups"]) == ("official-ssul", "import", [15, 1])
    assert cli("weights", "show", "nothing")[1].startswith("nothing is no file or folder")


def test_a_long_list_is_shown_in_part(cli):
    heads = {f"cls.{i}.weight": torch.zeros(101 if i == 0 else 5, 1) for i in range(11)}
    torch.save({"body.mod1.a": torch.zeros(1), **heads}, "model.pth")
    line = next(line for line in cli("weights", "show", "model.pth")[1].splitlines() if "classes per step" in line)
    assert line.endswith(" 100, 5, 5, 5, 5, 5, 5, 5, 5, 5, ... (11 in all)")
    assert json.loads(cli("weights", "show", "model.pth", "--json")[1])["groups"] == [100, *[5] * 10]


@pytest.mark.parametrize("place", ["nothing", "empty", "pictures", "parts"])
def test_show_and_extend_have_the_same_words(place, cli, tmp_path):
    """A path that does not exist, an empty folder, a data set, a folder with a description of another kind."""
    for folder in ("empty", "pictures/images", "pictures/masks", "parts"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "parts/config.json").write_text("[]")
    shown = " ".join(cli("weights", "show", place)[1].split())
    status, _, err = cli("extend", place, "--data", "pictures", "--classes", "lamp", "--out", "run")
    assert status == 2
    assert shown == " ".join(err.split()).removeprefix("barm: ").replace(": ", " barm ", 1)
    assert not (tmp_path / "run").exists()


def test_a_foreign_file_is_named_and_nothing_is_written(cli, tmp_path):
    (tmp_path / "page.pth").write_text("<html>")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    torch.save(
        {"segmentation_head.0.weight": torch.zeros(2, 1), "encoder.a": torch.zeros(1), "decoder.b": torch.zeros(1)},
        "u.pth",
    )
    for name, words in (("page.pth", "is a web page"), ("u.pth", "2 outputs: it does not say"), ("x", "is no file or")):
        for command in (
            ("weights", "import", name, "--out", "run"),
            ("evaluate", name),
            ("predict", name, "a.png", "--out", "run"),
        ):
            status, _, err = cli(*command)
            assert status == 2
            assert words in err or (name == "x" and "weights" not in command)
            assert len(err.strip().splitlines()) == 1
    status, _, err = cli("weights", "import", "u.pth", "--format", "torchvision", "--out", "run")
    assert "--format torchvision does not fit: u.pth is the state dict" in err
    assert not (tmp_path / "run").exists()


def test_a_network_of_another_library_is_imported_for_a_method(cli, tmp_path):
    networks.QUICK["transformers-segformer"](tmp_path / "model")
    status, out, _ = cli("weights", "import", "model", "--recipe", "folder/mib", "--out", "run")
    assert status == 0
    text = " ".join(out.split())
    assert "transformers SegformerForSemanticSegmentation, 3 classes (sky, road, car)" in text
    assert "images: mean 0.500 0.400 0.300, deviation 0.200 0.300 0.400" in text
    record = json.loads((tmp_path / "run" / "step00" / "method.json").read_text())
    assert record["method"]["name"] == "mib"
    assert [c["name"] for c in record["classes"]] == list(networks.NAMES)


def test_without_calibration_a_softmax_network_is_not_for_barm(cli, tmp_path):
    networks.QUICK["transformers-segformer"](tmp_path / "model")
    status, _, err = cli("weights", "import", "model", "--out", "run")
    assert status != 0
    assert "needs --calibrate DIR to go on with barm" in " ".join(err.split())
    assert not (tmp_path / "run").exists()
