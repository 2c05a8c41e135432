"""What training says and refuses about its data before it begins, and the trees of the papers."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from barm.api import fit
from barm.cli import published as commands
from barm.cli.common import groups_in, names_in
from barm.data.index import checked, read_class_list, write_class_list
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


def test_a_image_that_trains_and_measures(shapes_voc, tiny, tmp_path):
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


def test_names_of_classes_on_the_command_line(tmp_path):
    """Commas, dashes, spaces and accents in names: as TOML, or in a file."""
    assert names_in("cat, hot dog", "--group") == ["cat", "hot dog"]
    assert names_in('["hot dog, warm", "-x", "@y"]', "--group") == ["hot dog, warm", "-x", "@y"]
    (tmp_path / "step.txt").write_text("\ufeffhot dog, warm\r\n# a comment\r\n-x\r\ncafe\u0301\r\n", "utf-8")
    assert names_in(f"@{tmp_path}/step.txt", "--group") == ["hot dog, warm", "-x", "caf\u00e9"]
    (tmp_path / "all.toml").write_text('groups = [["a, b"], ["c"]]')
    assert groups_in(["x,y", f"@{tmp_path}/all.toml"]) == [["x", "y"], ["a, b"], ["c"]]
    for text, says in (
        ('["a"', r"--group is no TOML array"),
        ("[1]", r"--group expects a TOML array of names"),
        (f"@{tmp_path}/none.txt", r"no file"),
    ):
        with pytest.raises(UserError, match=says):
            names_in(text, "--group")
    (tmp_path / "bad.toml").write_text("groups = 3")
    with pytest.raises(UserError, match=r"expected groups = "):
        groups_in([f"@{tmp_path}/bad.toml"])


def test_names_of_images_with_spaces_in_class_lists(shapes_voc, tmp_path):
    """``kitchen 1 0 3`` is the image 'kitchen 1' with two classes, where there is such an image."""
    root = shutil.copytree(shapes_voc, tmp_path / "data")
    for folder, suffix in (("JPEGImages", "jpg"), ("SegmentationClassAug", "png"), ("saliency_map", "png")):
        (root / folder / f"shapes_train_000000.{suffix}").rename(root / folder / f"kitchen 1.{suffix}")
    path = root / "ImageSets/Segmentation/train_aug.txt"
    path.write_text(path.read_text().replace("shapes_train_000000", "kitchen 1"))
    source = checked(open_source("voc", root, "train"))
    assert source.names[0] == "kitchen 1"
    write_class_list(tmp_path / "list.txt", source)
    assert read_class_list(tmp_path / "list.txt", source.names)["kitchen 1"] == source.classes_in(0)
    assert checked(source, tmp_path / "list.txt").classes_in(0) == source.classes_in(0)


@pytest.mark.skipif(os.name == "nt", reason="such names of files are not possible there")
def test_names_are_written_safely(cli, tmp_path):
    """Trained by TOML, with names that are markup, formulas and commands somewhere: all tables and hints hold."""
    names = ["=1+1, [red]x", "-w & <b>|_$HOME\u00e9"]
    root = tmp_path / "own data; echo"
    make_shapes(root, layout="folder", num_classes=2, num_train=8, num_val=2, size=(48, 48))
    (root / "classes.txt").write_text("\n".join(names), "utf-8")
    settings = [word for text in barm_settings() for word in ("--set", text)]
    out = tmp_path / "runs/my run"
    groups = ["--group", '["=1+1, [red]x"]', "--group", '["-w & <b>|_$HOME\u00e9"]']
    status, _, err = cli(
        "train", "--recipe", "shapes/barm", "--data", root, "--out", out, *groups, *settings, "--quiet"
    )
    assert status == 0, err
    status, text, err = cli("compare", out, "--out", tmp_path / "tables", "--quiet")
    assert status == 0, err
    rows = (tmp_path / "tables/compare.csv").read_text("utf-8").splitlines()
    assert not rows[1].startswith(("=", '"=', "-", '"-'))
    assert r"\textless{}b\textgreater{}" in (tmp_path / "tables/compare.tex").read_text("utf-8")
    assert "&lt;b>\\|" in (tmp_path / "tables/compare.md").read_text("utf-8")
    status, _, err = cli("report", out, "--out", tmp_path / "page.html")
    assert status == 0, err
    page = (tmp_path / "page.html").read_text("utf-8")
    assert "<b>|" not in page
    status, text, err = cli()
    assert status == 0
    assert "'runs/my run'" in text
    assert " runs/my run" not in text.replace("'runs/my run'", "").replace("newest run is runs/my run", "")


def barm_settings() -> tuple[str, ...]:
    return (
        "model.backbone=test_resnet", "model.channels=16", "model.output_stride=16", "base.epochs=1",
        "increment.epochs=1", "base.batch_size=4", "increment.batch_size=4", "base.crop=48", "increment.crop=48",
        "evaluation.crop=48", "runtime.workers=0", "runtime.precision=32-true", "runtime.device=cpu",
        "runtime.tensorboard=false",
    )  # fmt: skip


def test_a_wrong_name_for_only_is_told_the_names(tmp_path):
    with pytest.raises(UserError, match=r"no class 'heart'.*; there are crimson-plain-disc, .* and 146 more") as error:
        make_shapes(tmp_path / "d", num_classes=4, only=["heart"])
    assert "\n" not in str(error.value)


def test_a_step_is_called_a_step():
    """One word for one thing, in what is printed, shown and written."""
    root = Path(__file__).parents[2]
    texts = [root / "README.md", root / "CHANGELOG.md", *root.glob("docs/**/*.md"), *root.glob("docs/*.py")]
    texts += [p for p in root.glob("src/**/*") if p.suffix in (".py", ".css", ".js", ".html", ".toml")]
    assert len(texts) > 100
    assert not [str(p) for p in texts if "lesson" in p.read_text("utf-8").lower()]
