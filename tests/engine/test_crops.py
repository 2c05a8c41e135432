"""Sizes follow the data: crops hold the images, and a score is that of the masks that prediction writes."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from barm.api import evaluate, fit, read_config
from barm.cli import app
from barm.config import load_config
from barm.data.sources import open_source
from barm.data.sources.shapes_disk import make_shapes
from barm.engine.checkpoint.directory import COUNTS, METRICS, RunDirectory
from barm.engine.crops import fitting, sized
from barm.engine.datasets import Data, train_dataset
from barm.errors import UserError
from barm.extension.run import extend
from barm.grid import run_grid
from barm.grid_file import read_grid
from barm.metrics import confusion_counts
from barm.predict.model import load

FAST = (
    "model.backbone=test_resnet",
    "model.channels=16",
    "model.pretrained=false",
    "base.epochs=1",
    "increment.epochs=1",
    "base.batch_size=4",
    "increment.batch_size=4",
    "runtime.workers=0",
    "runtime.precision=32-true",
    "runtime.device=cpu",
    "runtime.tensorboard=false",
)


def images(root: Path, size: tuple[int, int], number: int = 12) -> Path:
    make_shapes(root, num_classes=3, num_train=number, num_val=5, size=size, seed=2)
    return root


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    return images(tmp_path_factory.mktemp("sizes") / "small", (80, 60))


@pytest.fixture(scope="module")
def run(small, tmp_path_factory) -> Path:
    """A run of the recipe for a folder, without a word on sizes."""
    out = tmp_path_factory.mktemp("runs") / "run"
    config = load_config("folder/barm", FAST, {"data": {"root": str(small)}, "task": {"name": "2-1"}})
    fit(config, out=out, quiet=True)
    return out


def opened(root: Path) -> Data:
    train, val = (open_source("folder", root, split) for split in ("train", "val"))
    config = load_config("folder/barm", FAST, {"task": {"name": "2-1"}})
    return Data(train, val, config.task.plan(train.class_names, 1))


@pytest.mark.parametrize("stride", [8, 16])
@pytest.mark.parametrize("size", [(80, 60), (60, 80), (160, 160), (161, 100), (500, 375), (4000, 3000), (20, 20)])
def test_the_crop_holds_the_shorter_side_of_the_image(size, stride):
    crop = fitting(size, stride)
    assert crop % stride == 1
    assert crop == 513 if min(size) > 513 else crop >= min(size)
    assert crop - min(size) < stride or min(size) < 2 * stride or crop == 513


@pytest.mark.parametrize("name", ["barm", "mib", "plop", "ssul", "dkd", "finetune", "joint"])
def test_recipes_for_a_folder_leave_sizes_to_the_data(name):
    config = load_config(f"folder/{name}", (), {"task": {"name": "2-1"}})
    for recipe in (config.base, config.increment):
        assert recipe.crop == "auto"
        assert recipe.pad_label == 255
    assert config.evaluation.crop == 0


@pytest.mark.parametrize("data", ["voc", "ade"])
def test_published_protocols_stay(data):
    config = load_config(f"{data}/barm", (), {"task": {"name": "offline"}})
    assert (config.base.crop, config.base.pad_label, config.evaluation.crop) == (513, 0, 513)


def test_the_choice_is_stored_with_its_reason(run):
    config = read_config(run)
    assert (config.base.crop, config.increment.crop, config.evaluation.crop) == (65, 65, 0)
    chosen = RunDirectory(run).provenance()["chosen"]
    assert (
        chosen["base.crop"]
        == "65: the smallest 16 k + 1 that holds the shorter side of the median training image, 80x60"
    )
    assert set(chosen) == {"base.crop", "increment.crop"}


def test_the_choice_is_printed(small, tmp_path):
    words = [word for setting in FAST for word in ("--set", setting)]
    out = ["--out", str(tmp_path / "run"), "--step", "0"]
    done = CliRunner().invoke(
        app, ["train", "--recipe", "folder/barm", "--data", str(small), "--task", "2-1", *out, *words]
    )
    assert done.exit_code == 0, done.output
    assert "base.crop is 65: the smallest 16 k + 1 that holds" in " ".join(done.output.split())
    assert "warning" not in done.output


def test_padding_is_ignored(small):
    """Against a recipe that calls it background: the same crops, other labels where nothing is seen."""
    data, found = opened(small), []
    for settings in ((), ("base.pad_label=0",)):
        config = sized(load_config("folder/barm", [*FAST, *settings], {"task": {"name": "2-1"}}), data).config
        dataset = train_dataset(config, data, data.plan[0])
        found.append([dataset[(epoch, 0)][:2] for epoch in range(8)])
    others = 0
    for (image, label), (same, background) in zip(*found, strict=True):
        assert torch.equal(image, same)
        other = label != background
        others += int(other.sum())
        assert set(label[other].tolist()) <= {255}
        assert set(background[other].tolist()) <= {0}
        assert not image[:, other].any()
    assert others > 1000


def test_a_score_is_that_of_the_masks(run, small):
    """What is printed after training, what `evaluate` prints and what `predict` labels are one thing."""
    model, source = load(run), open_source("folder", small, "val")
    counts = sum(
        confusion_counts(torch.tensor(model.predict(sample.image)), torch.tensor(np.asarray(sample.mask)), 4)
        for sample in (source[i] for i in range(len(source)))
    )
    assert RunDirectory(run).read(1, COUNTS) == counts.tolist()
    assert evaluate(run, quiet=True) == RunDirectory(run).read(1, METRICS)
    assert evaluate(run, native=True, quiet=True) == RunDirectory(run).read(1, METRICS)


def test_native_size_and_settings_of_the_evaluation(run, small, tmp_path):
    enlarged = evaluate(run, overrides=["evaluation.crop=160"], quiet=True)
    assert enlarged["miou"] != RunDirectory(run).read(1, METRICS)["miou"]
    assert enlarged["average_miou"] is None, "the steps before were measured at another size"
    assert enlarged["forgetting"] is None
    for words in (["--native"], ["--set", "evaluation.crop=0"], ["--set", "evaluation.batch_size=1"]):
        done = CliRunner().invoke(app, ["evaluate", str(run), *words, "--json", "--quiet"])
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout) == RunDirectory(run).read(1, METRICS)
    with pytest.raises(UserError, match=r"--set base\.crop=3: .*only evaluation\.\* may be set"):
        evaluate(run, overrides=["base.crop=3"], quiet=True)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["base.crop=513"], r"base\.crop=513 is far larger .* 80x60\): 98 % of a crop is padding.*--set base\.crop=65"),
        (["base.crop=513", "base.geometry=resized_crop"], r"enlarged 6\.4 times.*--set base\.crop=65"),
        (["increment.crop=17"], r"a crop of 17 pixels shows 6 % of a training image"),
        (["evaluation.crop=513"], r"evaluation\.crop=513 enlarges the images 8\.6 times.*--set evaluation\.crop=0"),
        (["evaluation.crop=32"], r"evaluation\.crop=32 makes the images smaller 1\.9 times"),
        (["base.crop=97", "increment.crop=65", "evaluation.crop=64"], None),
    ],
)
def test_a_size_far_from_the_data_is_a_warning(settings, words, small):
    config = load_config("folder/barm", [*FAST, *settings], {"task": {"name": "2-1"}})
    found = " | ".join(sized(config, opened(small)).warnings)
    if words is None:
        assert found == ""
        return
    assert re.search(words, found), found


def test_large_images_are_told_of(small):
    class Large:
        class_names, palette = ("background", "a"), None
        sizes = ((4000, 3000),) * 3

        def __len__(self) -> int:
            return 3

    data = opened(small)
    found = sized(load_config("folder/barm", FAST, {"task": {"name": "2-1"}}), Data(Large(), data.val, data.plan))
    assert found.config.base.crop == 513
    assert "the largest that is chosen" in found.chosen["base.crop"]
    assert any("shows 2 % of a training image" in line for line in found.warnings)


def test_a_source_of_ones_own_without_sizes(small):
    data = opened(small)
    bare = Data(data.train.with_index([frozenset()] * len(data.train)), data.val, data.plan)
    assert sized(load_config("folder/barm", FAST, {"task": {"name": "2-1"}}), bare).config.base.crop == 65


def test_evaluate_says_how_it_measured(run):
    for words, told in (((), "native size"), (("--set", "evaluation.crop=64"), "centre crops of 64 pixels")):
        done = CliRunner().invoke(app, ["evaluate", str(run), "--quiet", *words])
        assert f"Measured at {told}" in done.output


def test_an_empty_source_is_one_line(small):
    data = opened(small)
    empty = Data(data.train, replace(data.val, names=(), images=(), masks=()), data.plan)
    with pytest.raises(UserError, match="holds no image"):
        sized(load_config("folder/barm", FAST, {"task": {"name": "2-1"}}), empty)


def test_an_extension_follows_its_own_images(run, tmp_path):
    images(tmp_path / "larger", (150, 100), 6)
    (tmp_path / "larger/classes.txt").write_text("a\nb\nnovel\n")
    extend(run, tmp_path / "larger", ["novel"], out=tmp_path / "new", quiet=True)
    config = read_config(tmp_path / "new")
    assert (config.base.crop, config.increment.crop) == (65, 113)
    assert set(RunDirectory(tmp_path / "new").provenance()["chosen"]) == {"increment.crop"}


def test_a_grid_knows_its_runs_again(small, tmp_path):
    grid = tmp_path / "grid.toml"
    settings = ", ".join(f'"{setting}"' for setting in FAST)
    grid.write_text(
        f'recipes = "folder"\nmethods = ["finetune"]\ntasks = ["2-1"]\nseeds = [1]\noverrides = [{settings}]\n'
    )
    for said in ([1], []):
        lines: list[str] = []
        done, failed = run_grid(read_grid(grid), tmp_path / "out", small, lines.append, quiet=True)
        assert (len(done), failed, len(lines)) == (1, [], len(said))


def test_the_check_shows_sizes_and_shares(small, tmp_path):
    done = CliRunner().invoke(app, ["data", "check", str(small)])
    assert done.exit_code == 0, done.output
    assert "sizes in the train split: all 80x60" in done.output
    told = json.loads(CliRunner().invoke(app, ["data", "check", str(small), "--json"]).stdout)["splits"]
    for split in told:
        masks = [np.asarray(Image.open(p)) for p in sorted((small / "masks" / split["split"]).iterdir())]
        values, numbers = np.unique(np.stack(masks), return_counts=True)
        assert {int(k): v for k, v in split["pixels"].items()} == dict(
            zip(values.tolist(), numbers.tolist(), strict=True)
        )
        share = 100 * numbers[0] / numbers.sum()
        assert f"{share:.1f} %" in done.output
