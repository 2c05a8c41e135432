"""Pixels of regions, and which of several objects a pixel belongs to."""

from __future__ import annotations

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from samples import box, full

from barm.data.importers.annotations import Region, Undecided
from barm.data.importers.regions import (
    check_run_lengths,
    cropped,
    drawn,
    ellipse,
    nested,
    paint,
    polygon,
    rectangle,
    relative,
    rotated,
    run_lengths,
    stamp,
)

SIZE = (20, 10)


def test_a_polygon_covers_the_pixels_inside():
    covered = full(rectangle(5, 2, 15, 8), SIZE)
    assert covered.shape == (10, 20)
    assert covered[2:8, 5:15].all()
    assert covered.sum() == 60


def test_a_polygon_beyond_the_image_is_cut_off():
    assert full(rectangle(-50, -50, 50, 50), SIZE).all()
    assert not full(rectangle(30, 30, 50, 50), SIZE).any()


@pytest.mark.parametrize(("holes", "pixels"), [(True, 60 - 8), (False, 60)])
def test_a_ring_inside_a_ring(holes, pixels):
    rings = [box(5, 2, 15, 8), box(8, 4, 12, 6)]
    assert full(polygon(rings, holes=holes), SIZE).sum() == pixels


def test_an_island_in_a_hole_is_filled():
    rings = [box(0, 0, 20, 10), box(2, 2, 18, 8), box(6, 4, 14, 6)]
    assert full(polygon(rings, holes=True), SIZE).sum() == 200 - 96 + 16


def test_only_a_ring_inside_another_is_nested():
    outer = box(1, 1, 19, 9)
    assert nested([outer, box(5, 3, 12, 7)], SIZE)
    assert not nested([outer, box(5, 3, 7, 5)], SIZE)  # a slip of the hand
    assert not nested([box(1, 1, 9, 9), box(8, 1, 19, 8)], SIZE)
    assert not nested([outer], SIZE)


def test_the_area_of_an_ellipse():
    assert full(ellipse(100, 80, 60, 40), (200, 160)).sum() == pytest.approx(np.pi * 60 * 40, rel=0.005)


def test_a_turn_is_clockwise_and_keeps_its_middle():
    ring = rotated(np.array([(3.0, 1.0), (1.0, 1.0)]), 1, 1, 90)
    assert np.allclose(ring, [(1, 3), (1, 1)])  # y points down


def test_shares_of_the_sides_follow_the_size():
    cover = relative(np.array([(0.25, 0), (0.75, 0), (0.75, 1), (0.25, 1)]))
    assert (full(cover, SIZE).sum(), full(cover, (40, 20)).sum()) == (100, 400)
    assert full(drawn(lambda size: box(0, 0, size[0] / 2, size[1])), SIZE).sum() == 100


@pytest.mark.parametrize(("left", "top", "pixels"), [(0, 0, 12), (-1, -2, 3), (18, 9, 2), (30, 0, 0), (0, -5, 0)])
def test_a_stamp_is_cut_off_at_the_edges(left, top, pixels):
    assert full(stamp(np.ones((3, 4), bool), left, top), SIZE).sum() == pixels


def test_run_lengths_compressed_and_not():
    plain = {"size": [10, 20], "counts": [20, 30, 150]}
    packed = {"size": [10, 20], "counts": "d0n0f4"}
    assert check_run_lengths(plain) is check_run_lengths(packed) is None
    assert (full(run_lengths(plain), SIZE) == full(run_lengths(packed), SIZE)).all()
    assert np.nonzero(full(run_lengths(plain), SIZE).any(0))[0].tolist() == [2, 3, 4]


def test_run_lengths_of_another_size_are_not_stretched():
    with pytest.raises(ValueError, match="20x10 pixels, not 10x20"):
        run_lengths({"size": [10, 20], "counts": [200]})((10, 20))


SMALL, LARGE = rectangle(4, 2, 8, 6), rectangle(2, 0, 18, 10)


@pytest.mark.parametrize(("overlap", "above"), [("later", 1), ("earlier", 2), ("smaller", 2), ("ignore", 255)], ids=str)
def test_which_object_is_above(overlap, above):
    painted = paint([Region(2, SMALL), Region(1, LARGE)], overlap, SIZE)
    assert (painted.ids[2:6, 4:8] == above).all()
    assert (painted.contested, painted.objects) == (16, {1: 1, 2: 1})


CUT = [Region(1, LARGE), Region(0, SMALL), Region(2, rectangle(4, 2, 6, 4))]


@pytest.mark.parametrize("overlap", ["later", "earlier", "smaller", "ignore"])
def test_background_takes_out_of_earlier_objects_alone(overlap):
    painted = paint(CUT, overlap, SIZE, "cut")
    assert (painted.ids[2:4, 4:6] == 2).all()
    assert (painted.ids == 0).sum() == 200 - 160 + 16 - 4
    assert (painted.contested, painted.objects) == (0, {1: 1, 2: 1})


def test_background_may_lie_below():
    ids = paint(CUT, "later", SIZE, "below").ids
    assert (ids == 0).sum() == 200 - 160
    assert (ids == 2).sum() == 4


def test_what_background_means_is_asked_where_it_matters():
    with pytest.raises(Undecided, match="called background lies over others") as asked:
        paint(CUT, "later", SIZE)
    assert {answer: int((make(SIZE).ids == 1).sum()) for answer, make in asked.value.answers.items()} == {
        "cut": 160 - 16,
        "below": 160 - 4,
    }
    before = [Region(0, SMALL), Region(1, LARGE)]
    beside = [Region(1, SMALL), Region(0, rectangle(12, 0, 20, 10))]
    assert (paint(before, "later", SIZE).ids > 0).sum() == 160
    assert (paint(beside, "later", SIZE).ids > 0).sum() == 16


@pytest.mark.parametrize("seed", range(20))
def test_a_polygon_is_that_of_cocos_tools(seed):
    rng = np.random.default_rng(seed)
    size = (int(rng.integers(20, 90)), int(rng.integers(20, 90)))
    ring = rng.uniform(-15, 105, (int(rng.integers(3, 9)), 2)).round(int(rng.integers(0, 3)))
    (runs,) = coco_mask.frPyObjects([ring.ravel().tolist()], size[1], size[0])
    np.testing.assert_array_equal(full(polygon([ring]), size), coco_mask.decode(runs).astype(bool))


def test_a_patch_is_no_larger_than_its_pixels():
    patch = polygon([box(3, 2, 7, 5), box(12, 6, 15, 9)])(SIZE)
    assert (patch.left, patch.top, patch.mask.shape) == (3, 2, (7, 12))
    assert cropped(np.zeros(SIZE, bool)).mask.size == 0


def test_further_parts_are_not_counted_as_objects():
    assert paint([Region(1, SMALL), Region(1, LARGE, True)], "later", SIZE).objects == {1: 1}
