"""The memory of a run: stored with every step, bounded, and the next step's candidates."""

from __future__ import annotations

import pytest
import torch

from barm.api import fit
from barm.data.exemplars import Exemplar
from barm.engine.checkpoint.directory import MEMORY, RunDirectory
from barm.engine.datasets import open_data, train_dataset, with_exemplars
from barm.engine.runtime import Runtime
from barm.errors import UserError


@pytest.mark.parametrize("name", ["ssul-m", "dkd-m"])
def test_the_memory_is_stored_with_the_run(name, tiny, tmp_path):
    fit(tiny(name, "2-1", "method.memory.size=5"), out=tmp_path / "run", quiet=True)
    run = RunDirectory(tmp_path / "run")
    assert not run.has(0, MEMORY)
    for step in (1, 2):
        memory = run.read(step, MEMORY)
        assert 0 < len(memory) <= 5
        assert all(set(e["channels"]) <= set(range(1, 2 + step)) for e in memory)


def test_kept_images_follow_the_recipe_s_rule_for_void(tiny):
    for void in (0, 255):
        config = tiny("ssul-m", "2-1", f"increment.void_label={void}")
        data = open_data(config, Runtime(config.runtime))
        step, names = data.plan[1], [data.train.name(i) for i in range(6)]
        images = train_dataset(config, data, step)
        both = with_exemplars(config, data, images, step, [Exemplar(n, (1,)) for n in names])
        labels = torch.cat([both[(0, len(images) + i)][1].flatten() for i in range(len(names))])
        assert (255 in labels.tolist()) == (void == 255)


def test_a_batch_of_one_has_no_half(tiny):
    with pytest.raises(UserError, match=r"^method.memory.mix = 'replace' .* increment.batch_size is 1"):
        tiny("ssul-m", "2-1", "increment.batch_size=1")
    assert tiny("dkd-m", "2-1", "increment.batch_size=1").increment.batch_size == 1


def test_any_method_may_keep_a_memory(tiny, tmp_path):
    fit(tiny("finetune", "3-1", "method.memory.size=3"), out=tmp_path / "run", quiet=True)
    assert len(RunDirectory(tmp_path / "run").read(1, MEMORY)) == 3


@pytest.mark.parametrize(
    ("name", "mix", "copies", "old"), [("dkd-m", "append", 1, set()), ("ssul-m", "replace", 2, {1, 2})]
)
def test_a_run_uses_its_memory_as_published(name, mix, copies, old, tiny):
    """What a run makes of the method's own settings: SSUL Q10, Q29; spec/dkd.md section 8."""
    config = tiny(name, "2-1")
    data = open_data(config, Runtime(config.runtime))
    images = train_dataset(config, data, data.plan[1])
    kept = [Exemplar(data.train.name(i), (1,)) for i in range(8)]
    both = with_exemplars(config, data, images, data.plan[1], [*kept, kept[0]])
    assert both.mix == mix
    assert both.kept.count(0) == copies
    first = len(images)
    labels = [both[(0, first + i)][1].unique().tolist() for i in range(len(both.kept))]
    assert {c for found in labels for c in found} - {0, 3, 255} == old
    assert len(both) == first + (len(both.kept) if mix == "append" else 0)
