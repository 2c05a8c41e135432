"""Labels hide what a step does not teach, and an evaluation covers every image once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from barm.data.dataset import EvalDataset, StepDataset
from barm.data.index import checked
from barm.data.loader import make_eval_loader
from barm.data.sources import open_source
from barm.data.transforms import EvalTransform, TrainTransform
from barm.errors import UserError
from barm.labels import INCREMENTAL, JOINT, TaskPlan

PLAN = TaskPlan.parse("2-1", 4)


@pytest.fixture
def source(shapes_voc):
    return checked(open_source("voc", shapes_voc, "train"))


def test_labels_hide_what_the_step_does_not_teach(source):
    step = StepDataset(source, PLAN, PLAN[1], INCREMENTAL, TrainTransform(32), seed=5)
    joint = StepDataset(source, PLAN, PLAN[1], JOINT, TrainTransform(32), seed=5)
    assert set(step.images) < set(joint.images)
    seen = torch.cat([step[(0, i)][1].flatten() for i in range(len(step))]).unique().tolist()
    assert set(seen) == {0, 3, 255}
    seen = torch.cat([joint[(0, i)][1].flatten() for i in range(len(joint))]).unique().tolist()
    assert set(seen) == {0, 1, 2, 3, 255}


def test_a_step_without_images(source):
    plan = TaskPlan(((1, 2, 3, 4), (200,)))
    with pytest.raises(IndexError):
        StepDataset(source, plan, plan[1], INCREMENTAL, TrainTransform(32), seed=1)
    lonely = source.with_index([ids - {3} for ids in source.index])
    with pytest.raises(UserError, match=f"no training image belongs to step 1 .{source.class_names[3]}"):
        StepDataset(lonely, PLAN, PLAN[1], INCREMENTAL, TrainTransform(32), seed=1)


def test_evaluation_covers_every_image_once(shapes_voc):
    source = checked(open_source("voc", shapes_voc, "val"))
    dataset = EvalDataset(source, PLAN, PLAN[0], INCREMENTAL, EvalTransform(32))
    seen = [
        int(i)
        for rank in range(2)
        for _, _, extras in make_eval_loader(dataset, batch_size=2, rank=rank, world=2, workers=0)
        for i in extras["index"]
    ]
    assert sorted(seen) == list(range(len(source)))
    labels = torch.cat([dataset[i][1].flatten() for i in range(len(dataset))]).unique().tolist()
    assert set(labels) <= {0, 1, 2, 255}


@pytest.mark.parametrize("policy", [INCREMENTAL, JOINT], ids=["incremental", "joint"])
@pytest.mark.parametrize("indexed", [True, False])
def test_pixels_of_the_labels(source, policy, indexed):
    """From the index as from the masks; the ring of 255 counts as ignored."""
    known = source if indexed else replace(source, areas=())
    assert len(source.areas) == len(source)
    dataset = StepDataset(known, PLAN, PLAN[1], policy, TrainTransform(32), seed=5)
    masks = np.concatenate([np.asarray(source[i].mask).ravel() for i in dataset.images])
    assert dataset.pixels().tolist() == np.bincount(dataset.lut[masks], minlength=256).tolist()
    assert dataset.pixels()[255] > 0
