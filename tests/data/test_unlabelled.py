"""Images without masks: found, refused, and the order in which a step sees them."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from barm.data.sampler import BesideSampler, EpochSampler, ReplacingSampler
from barm.data.unlabelled import UnlabelledImages
from barm.errors import UserError


@pytest.fixture
def photos(tmp_path):
    for name in ("b.png", "deep/a.png"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((20, 30, 3), 7, np.uint8)).save(path)
    return tmp_path / "photos"


def test_every_image_below_the_folder_has_a_mask_of_255(photos):
    found = UnlabelledImages(photos)
    assert [found.name(i) for i in range(len(found))] == ["b", "deep/a"]
    image, mask, extras = found[1]
    assert (image.size, mask.size, extras) == ((30, 20), (30, 20), {})
    assert set(np.unique(np.asarray(mask))) == {255}


def test_what_a_folder_must_hold(photos, tmp_path):
    with pytest.raises(UserError, match=r"data\.unlabelled: .*none is no folder"):
        UnlabelledImages(tmp_path / "none")
    (photos / "b.png").write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"1 of 2 images is of no use \(take them out of the folder\): .*b\.png"):
        UnlabelledImages(photos)


def epochs(start=0, rank=0, world=1, size=2):
    return EpochSampler(8, size, 3, start, rank, world, seed=1, step=1)


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
