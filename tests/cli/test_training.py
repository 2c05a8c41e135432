"""Commands that train, evaluate and predict: what works, and one line for what does not."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tomli_w
from PIL import Image

import barm
from barm.config import load_config
from barm.engine.checkpoint import directory as store
from barm.engine.checkpoint.differences import to_table
from barm.engine.checkpoint.directory import RunDirectory


@pytest.fixture
def train(cli, data, small):
    """Run ``barm train`` of a tiny recipe into the folder ``run``."""

    def call(*more: object, task: str = "2-1", method: str = "barm", out: str = "run") -> tuple[int, str, str]:
        recipe = f"shapes/{task}/{method}"
        return cli("train", "--recipe", recipe, "--data", data, "--out", out, "--quiet", *small, *more)

    return call


@pytest.fixture
def small(tiny_settings):
    """The tiny settings as words of the command line."""
    return [word for setting in tiny_settings for word in ("--set", setting)]


@pytest.fixture
def data(shapes_voc, tmp_path):
    """A copy of the data that a test may damage."""
    shutil.copytree(shapes_voc, tmp_path / "data")
    return tmp_path / "data"


def one_line(err: str, *words: str) -> None:
    assert err.startswith("barm: ")
    assert err.count("\n") == 1, err
    for word in words:
        assert word in err, err


def test_train_evaluate_predict(cli, train, data, tmp_path):
    status, out, _ = train()
    assert status == 0
    assert "mIoU in percent" in " ".join(out.split())
    metrics = json.loads(cli("evaluate", "run", "--json")[1])
    saved = RunDirectory(tmp_path / "run").read(2, "metrics.json")
    assert metrics == saved
    assert (tmp_path / "run/log.csv").read_text().startswith("step,epoch,iteration,name,value\n")
    assert "provenance" in (tmp_path / "run/config.toml").read_text()
    assert cli("evaluate", "run", "--step", 1)[0] == 0

    image = data / "JPEGImages/shapes_val_000000.jpg"
    status, out, _ = cli("predict", "run", image, "--out", "seen")
    assert status == 0
    mask = Image.open(tmp_path / "seen/shapes_val_000000_mask.png")
    assert mask.size == (48, 48)
    assert mask.mode == "P"
    labels = barm.load(tmp_path / "run").predict(Image.open(image))
    np.testing.assert_array_equal(np.asarray(mask), labels)
    assert cli("predict", "run", image, "--out", "seen", "--no-legend")[0] == 0
    assert Image.open(tmp_path / "seen/shapes_val_000000_overlay.jpg").size == (48, 48)


def test_three_steps_by_class_names(cli, small, tmp_path):
    assert cli("data", "make", "shapes", "own", "--classes", 3, "--train", 12, "--val", 4, "--size", 48)[0] == 0
    names = (tmp_path / "own/classes.txt").read_text().split()
    groups = [word for name in names for word in ("--group", name)]
    words = ("train", "--recipe", "shapes/barm", "--data", "own", "--out", "run", "--quiet", *groups, *small)
    assert cli(*words)[0] == 0
    learned = [RunDirectory(tmp_path / "run").read(i, "metrics.json")["learned"] for i in range(3)]
    assert learned == [[n] for n in names]


def test_methods_share_step_zero(train, tmp_path):
    assert train("--step", 0)[0] == 0
    assert train("--start-from", "run", method="finetune", out="other")[0] == 0
    first = [(tmp_path / name / "step00/model.safetensors").read_bytes() for name in ("run", "other")]
    assert first[0] == first[1]
    _, _, err = train("--start-from", "run", "--set", "method.loss=ce", method="finetune", out="third")
    one_line(err, "minimises something else", "loss is bce there, ce here")
    (tmp_path / "run/config.toml").write_text('task = { name = "2-1" }\n')
    one_line(train("--start-from", "run", out="third")[2], "run/config.toml is damaged", "restore")
    shutil.copy(tmp_path / "other/config.toml", tmp_path / "run/config.toml")
    _, _, err = train("--start-from", "run", "--seed", 7, method="finetune", out="third")
    one_line(err, "another [seed]")
    assert not (tmp_path / "third").exists()


def test_a_bad_run_to_start_from_is_told_before_warnings_of_the_data(cli, data, small, tmp_path):
    words = ("train", "--recipe", "shapes/2-1/barm", "--data", data, "--out", "run", *small, "--set", "base.crop=160")
    _, _, err = cli(*words, "--start-from", "nowhere")
    one_line(err, "nowhere")
    assert not (tmp_path / "run").exists()


def damage(data: Path, kind: str) -> None:
    mask, image = data / "SegmentationClassAug/shapes_train_000003.png", data / "JPEGImages/shapes_train_000003.jpg"
    if kind == "size":
        Image.new("L", (20, 20)).save(mask)
    elif kind == "id":
        Image.new("L", (48, 48), 77).save(mask)
    elif kind == "truncated":
        image.write_bytes(image.read_bytes()[:-200])
    else:
        (data / "ImageSets/Segmentation/train_aug.txt").write_text("")


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("size", ("20x20", "48x48", "make both the same size")),
        ("id", ("unknown id 77", "0..4")),
        ("truncated", ("shapes_train_000003.jpg", "cannot be read as an image")),
        ("empty", ("train split", "empty")),
    ],
)
def test_bad_data_stops_before_training(kind, words, cli, train, data, tmp_path):
    damage(data, kind)
    status, _, err = train()
    assert status == 2
    one_line(err, *words)
    assert not (tmp_path / "run").exists()
    status, out, err = cli("data", "check", data)
    assert status == 2
    one_line(err, "1 problem")
    assert words[0] in " ".join(out.split()) or kind == "truncated"


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--data", "nowhere"), ("no folder", "nowhere")),
        (("--task", "15-2x"), ("unknown task '15-2x'", "<first>-<increment>")),
        (("--task", "2-3"), ("does not divide", "1 or 2")),
        (("--set", "base.epohcs=3"), ("unknown key 'epohcs' in [base]", "did you mean 'epochs'")),
        (("--set", "method.psuedo=true"), ("unknown key 'psuedo' in [method]", "did you mean 'pseudo'")),
        (("--set", "method.name=brm"), ("unknown method 'brm'", "did you mean 'barm'")),
        (("--set", "base.epochs=none"), ("base.epochs", "'none'")),
        (("--set", "nonsense"), ("--set expects table.key=value",)),
        (("--set", "model.weights="), ("--set model.weights= has no value", "leave it out")),
        (("--set", "model.backbone=resnet1O1"), ("unknown backbone", "did you mean")),
        (("--set", "model.weights=absent.pth"), ("no weights at absent.pth",)),
        (("--set", "method.memory.size=3", "--set", "method.memory.sise=3"), ("'sise'", "did you mean 'size'")),
        (("--set", "method=foo"), ("expected a table", "'foo'", "method.name=foo")),
        (("--set", "base.scale=[-1, 1]"), ("base.scale", "0 < low <= high")),
        (("--set", "base.scale=[2.0, 0.5]"), ("base.scale", "0 < low <= high")),
        (("--set", "model.rates=[0, 1, 2]"), ("model.rates", "greater than or equal to 1")),
        (("--set", "evaluation.crop=1"), ("evaluation.crop", "at least 16")),
        (("--set", "base.epochs=true"), ("base.epochs", "integer")),
        (("--set", "seed=4294967296"), ("seed", "less than 4294967296")),
        (("--resume",), ("nothing to resume",)),
        (("--group", "no-such-class"), ("unknown class 'no-such-class'",)),
        (("--step", "9"), ("step 9 does not exist", "0..2")),
        (("--step", "0", "--step", "2"), ("no finished step 1",)),
    ],
)
def test_bad_input_is_one_line(more, words, train, tmp_path):
    status, _, err = train(*more)
    assert status == 2
    one_line(err, *words)
    assert not (tmp_path / "run").exists()


def test_unknown_recipe(cli):
    status, _, err = cli("train", "--recipe", "voc/15-1/bram", "--data", ".")
    assert status == 2
    one_line(err, "unknown recipe", "did you mean 'voc/15-1/barm'")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"# caf\xe9\n[method]", ("not UTF-8", "r.toml")),
        (b"tasks = 3", ("tasks expects tables", "got 3")),
        (b"extends = 3", ("extends expects", "got 3")),
        (b'extends = "other.toml"', ("in a circle", "r.toml -> other.toml -> r.toml")),
        (b'extends = "shapes/barm"', ("no task", "--task 15-1", "--group")),
    ],
)
def test_recipes_that_are_wrong(content, words, cli, data, tmp_path):
    (tmp_path / "r.toml").write_bytes(content)
    (tmp_path / "other.toml").write_text('extends = "r.toml"')
    status, _, err = cli("train", "--recipe", "r.toml", "--data", data)
    assert status == 2
    one_line(err, *words)


def test_files_in_the_way(cli, train, data, tmp_path):
    assert train()[0] == 0
    (tmp_path / "file").touch()
    image = data / "JPEGImages/shapes_val_000000.jpg"
    for words in (
        ("predict", "run", image, "--out", "file"),
        ("compare", "run", "--out", "file"),
        ("data", "check", data, "--class-lists", "file"),
        ("weights", "export", "run", "file/e.pth"),
        ("weights", "export", "run", tmp_path),
    ):
        status, _, err = cli(*words)
        assert status == 2, words
        one_line(err, "cannot write", "choose another place")
    one_line(train(out="file/run")[2], "cannot write", "choose another place")


def test_damaged_runs(cli, train, tmp_path):
    assert train("--step", 0)[0] == 0
    step = tmp_path / "run/step00"
    for name, commands in (
        ("metrics.json", [("compare", "run")]),
        ("method.json", [("compare", "run"), ("evaluate", "run")]),
        ("model.safetensors", [("evaluate", "run")]),
    ):
        content = (step / name).read_bytes()
        (step / name).write_bytes(content[: len(content) // 2])
        for words in commands:
            one_line(cli(*words)[2], f"{name} is damaged", "restore")
        (step / name).write_bytes(content)
    (step / "metrics.json").write_text("{}")
    one_line(cli("compare", "run")[2], "metrics.json is damaged", "restore")
    (tmp_path / "run/config.toml").write_text("seed = ")
    one_line(cli("evaluate", "run")[2], "config.toml is damaged")
    one_line(cli("compare", "run")[2], "config.toml is damaged")


def test_steps_are_trained_in_order(train, tmp_path):
    assert train("--step", 1, "--step", 0, "--step", 1)[0] == 0
    assert RunDirectory(tmp_path / "run").finished_steps() == [0, 1]
    one_line(train("--step", 0, "--step", 2, out="other")[2], "no finished step 1")
    assert not (tmp_path / "other").exists()
    assert train("--step", 2, "--resume")[0] == 0


def test_two_runs_into_one_folder(train, data, tiny_settings, tmp_path):
    assert train("--step", 0)[0] == 0
    one_line(train()[2], "exists already", "--resume")
    running = RunDirectory(tmp_path / "run")
    config = load_config("shapes/2-1/barm", tiny_settings, {"data": {"root": str(data)}})
    running.open(config, {}, resume=True)
    one_line(train("--resume")[2], "in use by another run")
    running.close()
    one_line(train("--resume", task="3-1")[2], "another [task]")
    assert train("--resume")[0] == 0


def test_resume_leaves_a_folder_that_is_no_run_alone(train, cli, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/thesis.tex").write_text("years of work")
    one_line(train("--resume")[2], "is not a run", "config.toml", "another --out")
    one_line(train()[2], "exists already")
    assert (tmp_path / "run/thesis.tex").read_text() == "years of work"
    (tmp_path / "file").touch()
    one_line(train(out="file")[2], "is a file", "another --out")


def test_a_run_goes_on_with_its_own_settings(train, cli, tmp_path):
    """Without --recipe, --resume reads what is stored; a setting that is given beside it counts."""
    assert train("--step", 0, "--seed", 7)[0] == 0
    run = tmp_path / "run"
    stored = RunDirectory(run).config()
    one_line(cli("train", "--out", run)[2], "needs --recipe", "or --out RUN and --resume")
    one_line(cli("train", "--resume")[2], "needs --recipe")
    one_line(cli("train", "--out", run, "--resume", "--seed", 8)[2], "another [seed]")
    status, out, _ = cli("train", "--out", run, "--resume")
    assert status == 0, out
    assert RunDirectory(run).finished_steps() == [0, 1, 2]
    assert RunDirectory(run).config() == stored
    (tmp_path / "empty").mkdir()
    one_line(cli("train", "--out", tmp_path / "empty", "--resume")[2], "nothing to resume", "give --recipe to start")
    one_line(cli("train", "--out", tmp_path / "none", "--resume")[2], "nothing to resume", "does not exist")


def test_a_failing_run_removes_only_what_it_made(train, tmp_path, monkeypatch):
    def fail(*_args):
        raise OSError(errno.ENOSPC, "No space left on device", "model")

    (tmp_path / "run").mkdir()
    monkeypatch.setattr(store, "save", fail)
    assert train()[0] == 2
    assert list((tmp_path / "run").iterdir()) == []
    config = load_config("shapes/2-1/barm", [], {})
    (tmp_path / "run/config.toml").write_text(tomli_w.dumps(to_table(config)))
    (tmp_path / "run/log.csv").write_text("step,epoch,iteration,name,value\n")
    directory = RunDirectory(tmp_path / "run")
    directory.open(config, {}, resume=True)
    directory.close()
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["config.toml", "log.csv"]


def test_a_resume_may_change_neither_evaluation_nor_data(train, data, tmp_path):
    assert train("--step", 0)[0] == 0
    first = RunDirectory(tmp_path / "run").provenance()
    one_line(train("--resume", "--set", "evaluation.crop=32")[2], "another [evaluation]", "evaluation.crop is 48 there")
    one_line(train("--resume", "--set", "data.layout=voc")[2], "another [data]", "data.layout is auto there")
    assert train("--resume", "--step", 0, "--set", "evaluation.batch_size=2")[0] == 0
    assert train("--resume", "--step", 1, "--set", "data.cache_mb=1")[0] == 0
    now = RunDirectory(tmp_path / "run").provenance()
    assert {k: v for k, v in now.items() if k != "resumed"} == first
    assert len(now["resumed"]) == 1
    assert "torch" in now["resumed"][0]

    names = (data / "classes.txt").read_text().split()
    (data / "classes.txt").write_text("\n".join([*names[:2], "zebra", names[3]]) + "\n")
    one_line(train("--resume")[2], "other classes", f"class 3 is '{names[2]}' there, 'zebra' here")


def test_evaluation_on_data_with_other_classes(cli, train, data):
    assert train("--step", 0)[0] == 0
    names = (data / "classes.txt").read_text().split()
    (data / "classes.txt").write_text("\n".join([names[1], names[0], *names[2:]]) + "\n")
    one_line(cli("evaluate", "run", "--data", data)[2], f"class 1 is '{names[0]}' there, '{names[1]}' here")


def test_missing_previous_step(train, tmp_path):
    one_line(train("--step", 1)[2], "no finished step 0")
    assert not (tmp_path / "run").exists()


def test_full_disk(train, tmp_path, monkeypatch):
    def full(*_args):
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "run"))

    monkeypatch.setattr(store, "save", full)
    status, _, err = train()
    assert status == 2
    one_line(err, "No space left on device", "another --out")
    assert not (tmp_path / "run").exists()


def test_bad_images_to_predict(cli, train, data, tmp_path):
    assert train("--step", 0)[0] == 0
    one_line(cli("predict", "run", "absent.jpg", "--out", "seen")[2], "no image absent.jpg")
    (tmp_path / "text.jpg").write_text("no image")
    one_line(cli("predict", "run", "text.jpg", "--out", "seen")[2], "cannot be read as an image")
    image = data / "JPEGImages/shapes_val_000000.jpg"
    one_line(cli("predict", "nowhere", image, "--out", "seen")[2], "is not a run")
    one_line(cli("predict", "run", image, "text.jpg", "--out", "seen")[2], "text.jpg cannot be read")
    (tmp_path / "b").mkdir()
    shutil.copy(image, tmp_path / "b")
    one_line(cli("predict", "run", image, f"b/{image.name}", "--out", "seen")[2], "under one name", "rename")
    assert not (tmp_path / "seen").exists()
