"""Images without masks: found, refused, and the order in which a step sees them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import default_collate

from barm.data.beside import BesideDataset
from barm.data.dataset import StepDataset
from barm.data.device_transforms import finish
from barm.data.exemplars import Exemplar, MemoryConfig, MemoryDataset
from barm.data.index import checked
from barm.data.sampler import BesideSampler, EpochSampler, ReplacingSampler
from barm.data.sources import open_source
from barm.data.sources.shapes_disk import make_shapes
from barm.data.transforms import TrainTransform
from barm.data.unlabelled import UnlabelledImages
from barm.errors import UserError
from barm.labels import INCREMENTAL, TaskPlan


@pytest.fixture
def photos(tmp_path):
    for name in ("b.png", "deep/a.png"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((20, 30, 3), 7, np.uint8)).save(path)
    return tmp_path / "photos"


def test_every_image_below_the_folder_has_a_mask_of_255(photos):
    found = UnlabelledImages(photos)
    assert [found.name(i) for i in range(len(found))] == ["b.png", "deep/a.png"]
    image, mask, extras = found[1]
    assert (image.size, mask.size, extras) == ((30, 20), (30, 20), {})
    assert set(np.unique(np.asarray(mask))) == {255}


def test_what_a_folder_must_hold(photos, tmp_path):
    with pytest.raises(UserError, match=r"data\.unlabelled: .*none is no folder"):
        UnlabelledImages(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"data\.unlabelled: no images in .*empty"):
        UnlabelledImages(tmp_path / "empty")
    (photos / "b.png").write_bytes(b"damaged")
    told = r"data\.unlabelled: 1 of 2 images is of no use \(take them out of the folder\): .*b\.png"
    with pytest.raises(UserError, match=told):
        UnlabelledImages(photos).check(())


def test_two_images_may_have_one_stem(photos):
    (photos / "b.jpg").write_bytes((photos / "b.png").read_bytes())
    assert len(UnlabelledImages(photos)) == 3


@pytest.mark.parametrize("augment_on_device", [False, True])
def test_an_item_has_no_label(photos, tmp_path, augment_on_device):
    """Neither the image nor its padding, which the step's own items label background; exemplars are marked."""
    make_shapes(tmp_path / "own", num_classes=2, num_train=4, num_val=1, size=(32, 32), seed=1)
    source, plan = checked(open_source("folder", tmp_path / "own", "train")), TaskPlan.parse("1-1", 2)
    transform = TrainTransform(48, scale=(1.0, 1.0), pad_label=0)
    own = StepDataset(source, plan, plan[1], INCREMENTAL, transform, seed=1, on_device=augment_on_device)
    memory = MemoryDataset(own, [Exemplar(source.name(0), (1,))], MemoryConfig(size=1), own.lut)
    both = BesideDataset(memory, UnlabelledImages(photos))
    assert len(both) == len(own)
    items = [both[0, position] for position in (0, len(own), both.first, both.first + 1)]
    batch = finish(items, torch.device("cpu")) if augment_on_device else default_collate(items)
    _, label, extras = batch
    assert [set(label[i].unique().tolist()) == {255} for i in range(4)] == [False, False, True, True]
    assert extras["memory"].tolist() == [False, True, False, False]
    assert extras["index"].tolist()[2:] == [-1, -1]


def epochs(start=0, rank=0, world=1, size=2):
    return EpochSampler(8, size, 3 * (8 // (size * world)), start, rank, world, seed=1, step=1)


def test_they_go_round_in_an_order_of_their_own():
    batches = list(BesideSampler(epochs(), 8, 3, 2))
    assert [batch[:2] for batch in batches] == list(epochs())
    beside = [key for batch in batches for key in batch[2:]]
    assert len(beside) == 24
    assert len(set(beside)) == 24
    for first in range(0, 24, 3):
        assert {position for _, position in beside[first : first + 3]} == {8, 9, 10}
    orders = {tuple(p for _, p in beside[first : first + 3]) for first in range(0, 24, 3)}
    assert len(orders) > 1


def test_a_resumed_pass_sees_the_same_ones():
    assert list(BesideSampler(epochs(5), 8, 3, 2)) == list(BesideSampler(epochs(), 8, 3, 2))[5:]
    replacing = ReplacingSampler(epochs(5), 8, 4)
    assert (
        list(BesideSampler(replacing, 12, 3, 2)) == list(BesideSampler(ReplacingSampler(epochs(), 8, 4), 12, 3, 2))[5:]
    )


def test_two_processes_share_them():
    """Together they see in an update what one process sees with batches twice as large."""
    parts = [list(BesideSampler(epochs(rank=rank, world=2), 8, 3, 2)) for rank in (0, 1)]
    whole = [batch[4:] for batch in BesideSampler(epochs(size=4), 8, 3, 4)]
    assert [one[2:] + other[2:] for one, other in zip(*parts, strict=True)] == whole
