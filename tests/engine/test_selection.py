"""The memory of a run: stored with every step, bounded, and the next step's candidates."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from barm.api import fit
from barm.data.exemplars import Exemplar, MemoryConfig
from barm.engine.checkpoint.directory import MEMORY, RunDirectory
from barm.engine.datasets import open_data, train_dataset, with_exemplars
from barm.engine.runtime import Runtime
from barm.engine.selection import draw_exemplars, take_in_turn
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


def test_the_choice_ends_where_nothing_is_left():
    pool = [Exemplar("a", (1,)), Exemplar("b", (2,)), Exemplar("c", ())]
    assert [e.name for e in take_in_turn(pool, [2, 1, 3], 9)] == ["a", "b"]


def test_every_candidate_is_looked_at_once():
    """Not once per round: where few classes are shown, every round of ADE20K would go through 20 210 images."""
    looks = []

    class Channels(tuple):
        def __contains__(self, channel):
            looks.append(1)
            return tuple.__contains__(self, channel)

        def __iter__(self):
            looks.append(1)
            return tuple.__iter__(self)

    pool = [Exemplar(f"{i}", Channels((1 + i % 2,))) for i in range(400)]
    chosen = take_in_turn(pool, range(1, 50), 60)
    assert [e.name for e in chosen] == [f"{i}" for i in (*range(0, 60, 2), *range(1, 60, 2))]
    assert len(looks) == len(pool)


@given(st.integers(0, 10_000), st.integers(1, 12))
def test_the_choice_is_the_published_search(seed, size):
    """Round after round the first remaining image of every class: spec/ssul.md 12.1, written as it says."""
    rng = np.random.default_rng(seed)
    pool = [Exemplar(f"{i}", tuple(np.flatnonzero(rng.random(6) < 0.3).tolist())) for i in range(10)]
    order, left, taken = [int(c) for c in rng.permutation(range(1, 6))], list(pool), {c: [] for c in range(1, 6)}
    for channel in order * len(pool):
        fits = [e for e in left if channel in e.channels]
        if fits and len(pool) - len(left) < size:
            taken[channel].append(fits[0])
            left.remove(fits[0])
    assert take_in_turn(pool, order, size) == [e for group in taken.values() for e in group]


def test_classes_are_balanced():
    pool = [Exemplar(f"{i}", (1,)) for i in range(20)] + [Exemplar(f"x{i}", (2,)) for i in range(5)]
    chosen = draw_exemplars(pool, 3, MemoryConfig(size=10), seed=3)
    assert [e.channels for e in chosen] == [(1,)] * 5 + [(2,)] * 5
    assert (
        chosen
        == draw_exemplars(pool, 3, MemoryConfig(size=10), seed=3)
        != draw_exemplars(pool, 3, MemoryConfig(size=10), seed=4)
    )


def test_no_image_twice_unless_asked_for():
    pool = [Exemplar("a", (1,)), Exemplar("a", (1, 2)), Exemplar("b", (2,))]
    names = [e.name for e in draw_exemplars(pool, 3, MemoryConfig(size=3), seed=0)]
    assert sorted(names) == ["a", "b"]
    assert len(draw_exemplars(pool, 3, MemoryConfig(size=3, unique=False), seed=0)) == 3
