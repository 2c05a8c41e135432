"""What training says and refuses about its data before it begins, and the trees of the papers."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from barm.api import fit
from barm.cli import published as commands
from barm.data.index import checked
from barm.data.saliency.record import Recipe
from barm.data.sources import open_source
from barm.data.sources.shapes_disk import make_shapes
from barm.engine.datasets import open_data
from barm.engine.runtime import Runtime
from barm.errors import UserError


def config_on(tiny, root: Path, method: str = "barm", *words: str):
    config = tiny(method, "2-1", *words)
    return config.model_copy(update={"data": config.data.model_copy(update={"root": root})})


def opened(config):
    return open_data(config, Runtime(config.runtime))


@pytest.mark.slow
def test_the_papers_own_tree_trains_from_the_readmes_command(tmp_path, monkeypatch, capsys):
    """Written ``ImageSet``, with an empty ``saliency_map``, and the command line of the published README."""
    make_shapes(tmp_path / "VOC2012", layout="voc", num_classes=20, num_train=16, num_val=2, size=(48, 48), seed=1)
    (tmp_path / "VOC2012/ImageSets").rename(tmp_path / "VOC2012/ImageSet")
    shutil.rmtree(tmp_path / "VOC2012/saliency_map")
    (tmp_path / "VOC2012/saliency_map").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BARM_BACKBONE_WEIGHTS", "none")
    monkeypatch.setitem(commands.MODELS, "deeplabv3bga_resnet101", {"backbone": "test_resnet"})  # tiny in the test
    text = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
    block = text[text.index("python train.py") :].split("```")[0].split("barm weights")[0]
    words = block.replace("\\\n", " ").split()[2:]
    words[words.index("--train_epoch") + 1] = "1"
    commands.train_main([*words, "--crop_size", "48"])
    assert Path("checkpoints/BARM/15-1/overlap/step0/deeplabv3bga_resnet101_voc_15-1_step_0_overlap.pth").is_file()
    assert "mIoU" in capsys.readouterr().out


@pytest.mark.parametrize("method", ["barm", "mib"])
def test_maps_do_not_concern_methods_without_them(method, shapes_voc, tiny, tmp_path):
    root = shutil.copytree(shapes_voc, tmp_path / "data")
    for file in (root / "saliency_map").iterdir():
        file.write_bytes(b"damaged")
    data = opened(config_on(tiny, root, method))
    assert data.train[0].extras == {}


def test_what_ssul_asks_of_its_maps(shapes_voc, tiny, tmp_path):
    """Names, modes and sizes are looked at before training; without the folder it does without."""
    root = shutil.copytree(shapes_voc, tmp_path / "data")
    config, path = config_on(tiny, root, "ssul"), root / "saliency_map/shapes_train_000000.png"
    assert set(opened(config).train[0].extras) == {"saliency"}
    good = path.read_bytes()
    for damage, says in (
        (lambda: Image.new("L", (24, 30)).save(path), r"the saliency map is 24x30 but its image 48x48"),
        (lambda: Image.new("RGB", (48, 48)).save(path), r"a map has one channel .*found mode RGB"),
        (lambda: path.write_bytes(b"no map"), r"the saliency map is not readable"),
        (path.unlink, r"the saliency map is missing; add the map, or take the folder away"),
    ):
        damage()
        with pytest.raises(UserError, match=says):
            opened(config)
    path.write_bytes(good)
    opened(config)
    shutil.rmtree(root / "saliency_map")
    assert opened(config).train[0].extras == {}


def test_a_map_that_changes_its_size_in_mid_run(shapes_voc, tmp_path):
    root = shutil.copytree(shapes_voc, tmp_path / "data")
    source = checked(open_source("voc", root, "train"))
    Image.new("L", (24, 30), 255).save(source.saliency[0])
    with pytest.raises(UserError, match="is 24x30 but its image 48x48: make both the same size"):
        source[0]


def leaking(shapes_voc: Path, root: Path) -> Path:
    shutil.copytree(shapes_voc, root)
    lists = root / "ImageSets/Segmentation"
    with (lists / "val.txt").open("a") as file:
        file.write("shapes_train_000003\n")
    return root


def test_an_image_that_trains_and_measures(shapes_voc, tiny, tmp_path):
    root = leaking(shapes_voc, tmp_path / "data")
    with pytest.raises(UserError, match=r"1 image of .* such as 'shapes_train_000003'.*data.allow_shared=true"):
        opened(config_on(tiny, root))
    assert len(opened(config_on(tiny, root, "barm", "data.allow_shared=true")).val) == 7


def test_training_says_what_may_be_a_mistake(shapes_voc, tiny, tmp_path, capfd):
    """A class without an image, and what is not used, are said before the first update; training goes on."""
    root = shutil.copytree(shapes_voc, tmp_path / "data")
    (root / "classes.txt").write_text("\n".join([*(root / "classes.txt").read_text().split(), "[red]unicorn"]))
    (root / "JPEGImages/more.heic").write_text("x")
    config = tiny("barm", "2-1")
    config = config.model_copy(
        update={
            "data": config.data.model_copy(update={"root": root}),
            "task": config.task.model_copy(update={"name": "4-1"}),
        }
    )
    data = opened(config)
    assert any("the class '[red]unicorn' stands in no image" in line for line in data.warnings)
    assert any(".heic" in line for line in data.warnings)
    with pytest.raises(UserError, match="no training image belongs to step 1"):
        fit(config, out=tmp_path / "run", quiet=True)
    fit(config, out=tmp_path / "run", steps=[0])
    shown = "".join(capfd.readouterr())
    assert "warning: in training, the class '[red]unicorn' stands in no image" in shown


def test_nothing_to_learn_is_refused(shapes_voc, tiny, tmp_path):
    root = shutil.copytree(shapes_voc, tmp_path / "data")
    for file in (root / "SegmentationClassAug").iterdir():
        Image.fromarray(np.where(np.asarray(Image.open(file)) > 0, 255, 0).astype(np.uint8)).save(file)
    with pytest.raises(UserError, match=r"no image of the train split .* shows a class.*only 0 and 255"):
        opened(config_on(tiny, root))


@pytest.mark.parametrize("method", ["ssul", "barm"])
def test_the_origin_of_saliency_maps_is_known(method, shapes_voc, tiny, tmp_path):
    root = shutil.copytree(shapes_voc, tmp_path / "data")
    found = [opened(config_on(tiny, root, method)).saliency]
    recipe = Recipe(tool="OpenCV fine-grained saliency", version="4.10.0")
    (root / "saliency_map/saliency.json").write_text(recipe.model_dump_json())
    found.append(opened(config_on(tiny, root, method)).saliency)
    shutil.rmtree(root / "saliency_map")
    found.append(opened(config_on(tiny, root, method)).saliency)
    told = ["of unknown origin", "OpenCV fine-grained saliency 4.10.0", "none"]
    assert found == (told if method == "ssul" else ["", "", ""])
