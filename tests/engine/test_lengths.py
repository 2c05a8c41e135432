"""The length of a step: in epochs, in updates, or chosen by the number of images."""

from __future__ import annotations

import csv

import pytest

from barm.api import fit, read_config
from barm.config import load_config
from barm.data.sources.shapes_disk import make_shapes
from barm.engine.crops import _lengthened, chosen_lines, sized
from barm.engine.datasets import open_data
from barm.engine.runtime import Runtime
from barm.errors import UserError


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
    recipe, reason = _lengthened("base", config.base, 10_000)
    assert (recipe.updates, reason) == (31250, "31250: 25 passes over 10000 training images")


def test_a_later_step_counts_its_own_images(tmp_path):
    """Offline there is no later step: its length stays open until an extension knows its images."""
    make_shapes(tmp_path / "own", num_classes=3, num_train=12, num_val=4, size=(48, 48), seed=2)
    config = load_config("folder/barm", ["task.name=offline"], {"data": {"root": tmp_path / "own"}})
    settled = sized(config, open_data(config, Runtime(config.runtime)))
    assert settled.config.increment.updates == "auto"
    assert "increment.updates" not in settled.chosen
