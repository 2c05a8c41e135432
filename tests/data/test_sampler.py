"""The order of images depends on (seed, step, epoch, index) and on nothing else."""

from __future__ import annotations

import pytest
import torch

from barm.data.dataset import StepDataset
from barm.data.index import checked
from barm.data.loader import make_train_loader
from barm.data.sampler import EpochSampler, OnceSampler, iterations_per_epoch
from barm.data.sources import open_source
from barm.data.transforms import TrainTransform
from barm.labels import INCREMENTAL, TaskPlan

PLAN = TaskPlan.parse("2-1", 4)


@pytest.fixture
def source(shapes_voc):
    return checked(open_source("voc", shapes_voc, "train"))


def loader(source, start=0, workers=0, rank=0, world=1):
    dataset = StepDataset(source, PLAN, PLAN[1], INCREMENTAL, TrainTransform(32), seed=5)
    sampler = EpochSampler(
        len(dataset), 2, 3 * iterations_per_epoch(len(dataset), 2, world), start, rank, world, seed=5, step=1
    )
    return list(make_train_loader(dataset, sampler, workers=workers))


def same(a, b):
    return all(torch.equal(x[0], y[0]) and torch.equal(x[1], y[1]) for x, y in zip(a, b, strict=True))


def test_workers_and_restarts_change_nothing(source):
    whole = loader(source)
    assert same(whole, loader(source, workers=2))
    assert same(whole[4:], loader(source, start=4))
    assert whole[0][0].dtype == whole[0][1].dtype == torch.uint8
    assert not torch.equal(whole[0][0], whole[len(whole) // 3][0])


def test_ranks_share_the_global_batch():
    single = list(EpochSampler(11, 4, 4, 0, 0, 1, seed=1, step=0))
    parts = [list(EpochSampler(11, 2, 4, 0, rank, 2, seed=1, step=0)) for rank in range(2)]
    assert single == [a + b for a, b in zip(*parts, strict=True)]
    epoch = [i for batch in single[:2] for _, i in batch]
    assert len(set(epoch)) == 8


def test_every_epoch_has_an_order_of_its_own():
    """spec/barm.md section 7: published, every process saw the same half of the images in every epoch."""
    halves = []
    for rank in range(2):
        batches = list(EpochSampler(12, 3, 8, 0, rank, 2, seed=1, step=0))
        halves.append([tuple(i for batch in batches[e : e + 2] for _, i in batch) for e in range(0, 8, 2)])
    assert all(set(a) | set(b) == set(range(12)) for a, b in zip(*halves, strict=True))
    assert len(set(halves[0])) == 4
    assert len({frozenset(half) for half in halves[0]}) > 1


def test_a_pass_may_end_in_between():
    """The first updates are the same, whatever the length of the step."""
    whole, part = (list(EpochSampler(12, 3, total, 0, 0, 1, seed=1, step=0)) for total in (8, 6))
    assert part == whole[:6]
    assert list(EpochSampler(12, 3, 6, 5, 0, 1, seed=1, step=0)) == whole[5:6]


def test_few_images_are_repeated():
    batches = list(EpochSampler(3, 4, 2, 0, 0, 2, seed=1, step=0))
    assert [len(b) for b in batches] == [4, 4]
    assert {i for _, i in batches[0]} == {0, 1, 2}
    both_ranks = [
        key for rank in (0, 1) for batch in EpochSampler(3, 4, 2, 0, rank, 2, seed=1, step=0) for key in batch
    ]
    assert len(set(both_ranks)) == len(both_ranks) == 16  # copies of an image have augmentations of their own


@pytest.mark.parametrize("world", [1, 2, 3])
def test_every_image_is_seen_once_in_a_pass(world):
    """Also the last, smaller batch; a process may have fewer batches, or none."""
    seen = []
    for rank in range(world):
        sampler = OnceSampler(num_images=10, batch_size=4, rank=rank, world=world)
        batches = list(sampler)
        assert len(sampler) == len(batches)
        seen += [key for batch in batches for key in batch]
    assert sorted(seen) == [(0, i) for i in range(10)]
