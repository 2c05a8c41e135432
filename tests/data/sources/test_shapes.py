"""The built-in data."""

from __future__ import annotations

import errno

import numpy as np
import pytest
from PIL import Image

from barm.data.index import checked
from barm.data.palette import published
from barm.data.sources import detect_layout, open_source
from barm.data.sources.shapes import class_names, render
from barm.data.sources.shapes_disk import make_shapes
from barm.errors import UserError


def test_a_scene_is_a_function_of_its_arguments():
    a, b = (render(5, split="train", num_classes=10, size=(64, 48), seed=1) for _ in range(2))
    np.testing.assert_array_equal(a.image, b.image)
    np.testing.assert_array_equal(a.mask, b.mask)
    other = render(5, split="val", num_classes=10, size=(64, 48), seed=1)
    assert (a.image != other.image).any()
    assert a.image.shape == (48, 64, 3)
    assert a.mask.shape == (48, 64)


def test_ids_borders_and_saliency():
    for index in range(20):
        scene = render(index, split="train", num_classes=7, size=(64, 64), seed=0)
        ids = set(np.unique(scene.mask).tolist())
        assert ids <= {*range(8), 255}
        assert 255 in ids
        assert index % 7 + 1 in ids
        np.testing.assert_array_equal(scene.saliency > 0, scene.mask > 0)


def test_every_class_is_about_as_frequent():
    scenes = [render(i, split="train", num_classes=5, size=(32, 32), seed=0) for i in range(100)]
    counts = [sum(c in s.mask for s in scenes) for c in range(1, 6)]
    assert max(counts) < 1.6 * min(counts)


def test_names():
    names = class_names(150)
    assert len(set(names)) == 150
    assert not set(names) & set(published("voc")[0])
    assert len({n.split("-")[2] for n in names[:10]}) == 5  # shapes and hues are shared among ten classes already
    assert len({n.split("-")[0] for n in names[:10]}) == 5


@pytest.mark.parametrize("layout", ["voc", "ade", "folder"])
def test_layouts(layout, tmp_path):
    root = tmp_path / "data"
    make_shapes(root, layout=layout, num_classes=5, num_train=6, num_val=3, size=(40, 32))
    assert detect_layout(root) == layout
    train, val = (checked(open_source("auto", root, split)) for split in ("train", "val"))
    assert (len(train), len(val)) == (6, 3)
    assert train.class_names[1:] == class_names(5)
    sample = train[0]
    assert sample.image.size == sample.mask.size == (40, 32)
    assert ("saliency" in sample.extras) == (layout == "voc")
    assert train.classes_in(0) == {int(i) for i in np.unique(np.asarray(sample.mask))} - {0, 255}


def test_bad_requests(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    with pytest.raises(UserError, match="is there already"):
        make_shapes(tmp_path / "full")
    with pytest.raises(UserError, match="1 to 150"):
        make_shapes(tmp_path / "x", num_classes=151)
    with pytest.raises(UserError, match="pixels on each side"):
        make_shapes(tmp_path / "x", size=(8, 8))
    assert not (tmp_path / "x").exists()


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_args, **_options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="No space"):
        make_shapes(tmp_path / "data", num_train=2, num_val=1, size=(32, 32))
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_name_for_only_is_told_the_names(tmp_path):
    with pytest.raises(UserError, match=r"no class 'heart'.*; there are crimson-plain-disc, .* and 146 more") as error:
        make_shapes(tmp_path / "d", num_classes=4, only=["heart"])
    assert "\n" not in str(error.value)
