"""The exemplar memory: what is kept, and how it comes back."""

from __future__ import annotations

import pytest
import torch

from barm.data.dataset import StepDataset
from barm.data.exemplars import Exemplar, MemoryConfig, MemoryDataset, from_json, to_json
from barm.data.index import checked
from barm.data.sampler import EpochSampler, ReplacingSampler
from barm.data.sources import open_source
from barm.data.transforms import TrainTransform
from barm.engine.selection import draw_exemplars
from barm.errors import UserError
from barm.labels import INCREMENTAL, JOINT, TaskPlan

PLAN = TaskPlan.parse("2-1", 4)


@pytest.fixture
def images(shapes_voc):
    source = checked(open_source("voc", shapes_voc, "train"))
    return StepDataset(source, PLAN, PLAN[1], INCREMENTAL, TrainTransform(32), seed=5)


def kept(images, number):
    return [Exemplar(images.source.name(i), (1,)) for i in range(number)]


def memory(images, number, **settings):
    policy = JOINT if settings.get("labels", "seen") == "seen" else INCREMENTAL
    return MemoryDataset(images, kept(images, number), MemoryConfig(**settings), PLAN.train_lut(PLAN[1], policy))


def test_an_image_that_is_seen_again_shows_the_classes_of_both_records():
    pool = [Exemplar("a", (1,)), Exemplar("b", (1,)), Exemplar("a", (2,))]
    chosen = draw_exemplars(pool, 3, MemoryConfig(size=2), seed=0)
    assert {e.name: e.channels for e in chosen} == {"a": (1, 2), "b": (1,)}


def test_stored_form_is_read_back():
    exemplars = [Exemplar("a", (1, 3)), Exemplar("b", ())]
    assert from_json(to_json(exemplars)) == exemplars


def test_appended_images_lengthen_the_epoch(images):
    both = memory(images, 3, mix="append", labels="step")
    assert len(both) == len(images) + 3
    flags = [bool(both[(0, i)][2]["memory"]) for i in range(len(both))]
    assert flags == [False] * len(images) + [True] * 3


def test_kept_images_are_labelled_as_configured(images):
    first = len(images)
    for labels, old in (("seen", True), ("step", False)):
        both = memory(images, 8, mix="append", labels=labels)
        found = {c for i in range(first, len(both)) for c in both[(0, i)][1].unique().tolist()}
        assert bool(found & {1, 2}) == old
        assert not found & {4}


@pytest.mark.parametrize("number", [3, 20])
def test_half_of_every_batch_is_replaced_in_place(images, number):
    batch, world = 4, 2
    for rank in range(world):
        base = EpochSampler(len(images), batch, 3 * len(images) // 8, 0, rank, world, seed=1, step=1)
        mixed = list(ReplacingSampler(base, len(images), number))
        assert len(mixed) == len(base)
        for plain, one in zip(base, mixed, strict=True):
            old = [key[1] >= len(images) for key in one]
            assert sum(old) == batch // 2
            assert all(key == own for key, own, o in zip(one, plain, old, strict=True) if not o)
            assert all(key[1] < len(images) + number for key in one)


def test_copies_of_a_kept_image_differ(images):
    """Three images stand at eight places of a batch, none twice under one augmentation in all epochs."""
    base = EpochSampler(len(images), 16, 6 * max(1, len(images) // 16), 0, 0, 1, seed=1, step=1)
    keys = [key for batch in ReplacingSampler(base, 99, 3) for key in batch if key[1] >= 99]
    assert len(keys) == 8 * len(base)
    assert len(set(keys)) == len(keys)
    both = memory(images, 1)
    first = len(images)
    assert not torch.equal(both[(0, first)][0], both[(1, first)][0])


def test_a_restart_changes_nothing(images):
    def batches(start):
        return list(
            ReplacingSampler(EpochSampler(len(images), 2, 4 * len(images) // 2 - 1, start, 0, 1, seed=1, step=1), 99, 5)
        )

    assert batches(0)[3:] == batches(3)


def test_all_kept_images_take_part(images):
    base = EpochSampler(40, 4, 100, 0, 0, 1, seed=1, step=1)
    seen = {key[1] for batch in ReplacingSampler(base, 40, 12) for key in batch if key[1] >= 40}
    assert seen == set(range(40, 52))


def test_an_image_that_is_gone(images):
    with pytest.raises(UserError, match="the memory holds 'gone'"):
        MemoryDataset(images, [Exemplar("gone", (1,))], MemoryConfig(), PLAN.train_lut(PLAN[1], JOINT))
