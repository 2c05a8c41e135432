"""The length of a step: in epochs, in updates, or chosen by the number of images."""

from __future__ import annotations

import csv

import pytest
import torch
from safetensors.torch import load_file

from barm.api import fit, read_config
from barm.config import load_config
from barm.data.sources.shapes_disk import make_shapes
from barm.engine.checkpoint.directory import RunDirectory
from barm.engine.crops import _lengthened, chosen_lines, sized
from barm.engine.datasets import open_data, train_dataset
from barm.engine.runtime import Runtime
from barm.engine.train import StepTrainer
from barm.errors import UserError
from barm.settings import recipe_text


def iterations(run) -> list[tuple[int, int]]:
    with (run / "log.csv").open() as file:
        return [(int(r["step"]), int(r["iteration"])) for r in csv.DictReader(file) if r["name"] == "loss"]


def test_a_step_of_updates_may_end_within_a_pass(tiny, tmp_path):
    """24 images in batches of 4 are six updates a pass."""
    config = tiny("barm", "2-1", "base.updates=8", "increment.updates=1", "runtime.log_every=1")
    fit(config, out=tmp_path / "run", quiet=True)
    assert iterations(tmp_path / "run") == [*((0, i) for i in range(1, 9)), (1, 1), (2, 1)]
    assert read_config(tmp_path / "run").base.updates == 8
    assert read_config(tmp_path / "run").base.epochs is None


def test_one_key_replaces_the_other():
    given = load_config("voc/15-1/barm", ["base.updates=100", "increment.updates=auto"])
    assert (given.base.epochs, given.base.updates, given.increment.updates) == (None, 100, "auto")
    back = load_config("folder/barm", ["task.name=2-1", "base.epochs=3"])
    assert (back.base.epochs, back.base.updates, back.increment.updates) == (3, None, "auto")


def test_both_or_none_are_refused(tmp_path):
    both = {"base": {"epochs": 3, "updates": 4}}
    with pytest.raises(UserError, match=r"base: give the length of a step either in epochs .* or in updates"):
        load_config("folder/barm", ["task.name=2-1"], both)
    recipe = tmp_path / "none.toml"
    text = recipe_text("folder/barm").replace('updates = "auto"', "")
    recipe.write_text(text, "utf-8")
    with pytest.raises(UserError, match=r"base: give the length of a step either in epochs .* or in updates"):
        load_config(recipe, ["task.name=2-1"])
    with pytest.raises(UserError, match=r"base\.updates: expected 'auto' or a whole number of updates"):
        load_config("folder/barm", ["task.name=2-1", "base.updates=0"])
    with pytest.raises(ValueError, match="no number before the data are open"):
        load_config("folder/barm", ["task.name=2-1"]).base.length(5)


def test_the_number_of_images_decides(tmp_path):
    make_shapes(tmp_path / "own", num_classes=3, num_train=12, num_val=4, size=(48, 48), seed=2)
    config = load_config("folder/barm", ["task.name=2-1", "runtime.device=cpu"], {"data": {"root": tmp_path / "own"}})
    settled = sized(config, open_data(config, Runtime(config.runtime)))
    assert (settled.config.base.updates, settled.config.increment.updates) == (2000, 500)
    (line,) = (line for line in chosen_lines(settled.chosen) if "base.updates" in line)
    assert line == "base.updates is 2000: the least that is chosen; there are 12 training images"
    recipe, reason = _lengthened("base", config.base, [10_000], world=1)
    assert (recipe.updates, reason) == (31250, "31250: 25 passes over 10000 training images")
    recipe, reason = _lengthened("increment", config.base, [10, 8000, 7], world=4)
    assert (recipe.updates, reason) == (2500, "2500: 10 passes over 8000 training images of the largest step")


def test_steps_of_another_run_do_not_count(tmp_path):
    make_shapes(tmp_path / "own", num_classes=3, num_train=40, num_val=4, size=(48, 48), seed=2)
    words = ["task.name=1-1", "runtime.device=cpu", "increment.batch_size=1", "base.batch_size=1"]
    config = load_config("folder/barm", words, {"data": {"root": tmp_path / "own"}})
    data = open_data(config, Runtime(config.runtime))
    fixed = load_config(
        "folder/barm", [*words, "base.crop=48", "increment.crop=48"], {"data": {"root": tmp_path / "own"}}
    )
    sizes = [len(train_dataset(fixed, data, step)) for step in data.plan.steps()]
    all_, last = (sized(config, data, [2], known=known).chosen["increment.updates"] for known in ((), (0, 1)))
    assert f"{max(sizes[1:])} training images of the largest step" in all_
    assert last.endswith(f"{sizes[2]} training images")


def test_a_later_step_counts_its_own_images(tmp_path):
    """Offline there is no later step: its length stays open until an extension knows its images."""
    make_shapes(tmp_path / "own", num_classes=3, num_train=12, num_val=4, size=(48, 48), seed=2)
    config = load_config("folder/barm", ["task.name=offline"], {"data": {"root": tmp_path / "own"}})
    settled = sized(config, open_data(config, Runtime(config.runtime)))
    assert settled.config.increment.updates == "auto"
    assert "increment.updates" not in settled.chosen


def test_a_stopped_step_of_updates_goes_on_within_its_pass(tiny, tmp_path, monkeypatch):
    """The last pass has two of six updates; stopped in it, the run ends in the same weights."""
    words = ("base.updates=8", "increment.updates=8", "runtime.save_every=1", "runtime.log_every=1")
    fit(tiny("barm", "2-1", *words), out=tmp_path / "whole", quiet=True)
    update, calls = StepTrainer.update, []

    def failing(self, *given, **more):
        calls.append(self.iteration)
        if len(calls) == 16:  # the eighth of step 1
            raise KeyboardInterrupt
        return update(self, *given, **more)

    with monkeypatch.context() as patch:
        patch.setattr(StepTrainer, "update", failing)
        with pytest.raises(KeyboardInterrupt):
            fit(tiny("barm", "2-1", *words), out=tmp_path / "broken", quiet=True)
    assert RunDirectory(tmp_path / "broken").load_partial(1)["iteration"] == 7
    fit(tiny("barm", "2-1", *words), out=tmp_path / "broken", resume=True, quiet=True)
    first, second = (
        load_file(RunDirectory(tmp_path / n).step_path(2) / "model.safetensors") for n in ("whole", "broken")
    )
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_what_is_chosen_can_be_overruled(cli, tmp_path):
    make_shapes(tmp_path / "own", num_classes=3, num_train=8, num_val=2, size=(48, 48), seed=2)
    words = ("train", "--recipe", "folder/finetune", "--data", "own", "--task", "2-1", "--step", 0, "--out", "run")
    small = ("model.backbone=test_resnet", "model.pretrained=false", "model.channels=16", "runtime.workers=0")
    sets = [word for one in (*small, "runtime.device=cpu", "base.updates=1") for word in ("--set", one)]
    status, _, told = cli(*words, *sets)
    assert status == 0
    told = " ".join(told.split())
    assert "base.crop is 49: the smallest 16 k + 1" in told
    assert "--set KEY=VALUE takes another value; --dry-run says beforehand how long training takes" in told
    status, _, told = cli(*words, *sets, "--set", "base.crop=49", "--set", "increment.crop=49", "--out", "other")
    assert status == 0
    assert "takes another value" not in " ".join(told.split())
