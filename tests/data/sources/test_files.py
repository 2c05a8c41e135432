"""Layouts on disk, their index, and every way in which files can be wrong."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image

from barm import catalogue
from barm.data.check import check_folder
from barm.data.dataset import EvalDataset, StepDataset
from barm.data.index import checked, read_class_list, scan, write_class_list
from barm.data.masks import foreground
from barm.data.sources import LAYOUTS, SOURCES, open_source
from barm.data.sources.shapes_disk import make_shapes
from barm.data.transforms import EvalTransform, TrainTransform
from barm.engine.selection import channels_in
from barm.errors import UserError
from barm.labels import INCREMENTAL, TaskPlan
from barm.metrics import confusion_counts


@pytest.fixture
def root(tmp_path):
    make_shapes(tmp_path / "data", layout="voc", num_classes=4, num_train=5, num_val=3, size=(40, 32))
    return tmp_path / "data"


def mask_of(root, index=0):
    return root / f"SegmentationClassAug/shapes_train_{index:06d}.png"


def test_parent_is_accepted(root):
    assert len(open_source("voc", root.parent, "train")) == 5
    shutil.copytree(root, root.parent / "twin")
    with pytest.raises(UserError, match="several"):
        open_source("voc", root.parent, "train")


def test_training_list_without_a_list(root):
    listed = open_source("voc", root, "train")
    (root / "ImageSets/Segmentation/train_aug.txt").unlink()
    assert open_source("voc", root, "train").names == listed.names


def test_list_of_pairs(root):
    lines = ["/JPEGImages/shapes_val_000001.jpg /SegmentationClassAug/shapes_val_000001.png"]
    (root / "ImageSets/Segmentation/val.txt").write_text("\n".join(lines))
    assert open_source("voc", root, "val").names == ("shapes_val_000001",)


def test_lists_without_a_final_newline(root, tmp_path):
    """spec/mib.md Q17: the last name is whole."""
    (root / "ImageSets/Segmentation/val.txt").write_text("shapes_val_000000\nshapes_val_000001")
    assert open_source("voc", root, "val").names == ("shapes_val_000000", "shapes_val_000001")
    (tmp_path / "classes.txt").write_text("a 0\nb 11")
    assert read_class_list(tmp_path / "classes.txt") == {"a": {1}, "b": {12}}


def test_folder_splits(tmp_path):
    make_shapes(tmp_path / "d", layout="folder", num_classes=3, num_train=40, num_val=10, size=(32, 32))
    flat = tmp_path / "flat"
    for kind in ("images", "masks"):
        (flat / kind).mkdir(parents=True)
        for file in (tmp_path / "d" / kind / "train").iterdir():
            shutil.copy(file, flat / kind)
    shutil.copy(tmp_path / "d/classes.txt", flat)
    train, val = (set(open_source("folder", flat, s).names) for s in ("train", "val"))
    assert len(train | val) == 40
    assert not train & val
    assert 2 <= len(val) <= 16
    (flat / "train.txt").write_text("shapes_train_000000\n")
    assert open_source("folder", flat, "train").names == ("shapes_train_000000",)
    (flat / "classes.txt").write_text("background\na\nb\nc\n")
    assert open_source("folder", flat, "train").class_names == ("background", "a", "b", "c")


def test_index_follows_the_content(root):
    source = open_source("voc", root, "train")
    before = checked(source).classes_in(0)
    assert checked(source).classes_in(0) == before
    changed = 2 if before == {1} else 1
    Image.fromarray(np.full((32, 40), changed, np.uint8)).save(mask_of(root))
    assert checked(source).classes_in(0) == {changed}


def test_class_list_round_trip(root, tmp_path):
    source = checked(open_source("voc", root, "train"))
    write_class_list(tmp_path / "train.txt", source)
    read = read_class_list(tmp_path / "train.txt")
    assert read == {source.name(i): source.classes_in(i) for i in range(len(source))}
    assert (tmp_path / "train.txt").read_text().splitlines()[0].split()[1] == str(min(source.classes_in(0)) - 1)
    (tmp_path / "train.txt").write_text("".join(f"{n} 2\n" for n in source.names))
    listed = checked(source, tmp_path / "train.txt")
    assert [listed.classes_in(i) for i in range(len(listed))] == [{3}] * len(listed)
    (tmp_path / "short.txt").write_text("shapes_train_000001 0\n")
    with pytest.raises(UserError, match="has no line for 'shapes_train_000000'"):
        checked(source, tmp_path / "short.txt")
    (tmp_path / "bad.txt").write_text("image one two\n")
    with pytest.raises(UserError, match=r"bad.txt:1"):
        read_class_list(tmp_path / "bad.txt")


def test_the_last_class_id(tmp_path):
    """254 is a class like any other, beside 255, which is none: in masks, in the index, in tables, in the counts."""
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            (tmp_path / kind / split).mkdir(parents=True)
        Image.new("RGB", (32, 24), (90, 60, 30)).save(tmp_path / f"images/{split}/one.png")
        ids = np.repeat(np.array([0, 253, 254, 255], np.uint8), 8)
        Image.fromarray(np.tile(ids, (24, 1))).save(tmp_path / f"masks/{split}/one.png")
    (tmp_path / "classes.txt").write_text("".join(f"class {i}\n" for i in range(1, 255)))
    source = checked(open_source("folder", tmp_path, "train"))
    assert source.classes_in(0) == {253, 254}
    assert foreground(source[0].mask) == {253, 254}
    plan = TaskPlan.parse("253-1", 254)
    step = plan[1]
    images = StepDataset(source, plan, step, INCREMENTAL, TrainTransform(24), seed=1)
    assert images.lut[[0, 253, 254, 255]].tolist() == [0, 0, 254, 255]
    assert {254} <= set(images[(0, 0)][1].unique().tolist()) <= {0, 254, 255}
    measured = EvalDataset(source, plan, step, INCREMENTAL, EvalTransform(None))[0][1]
    assert measured.unique().tolist() == [0, 253, 254, 255]
    assert channels_in(measured) == (253, 254)
    counts = confusion_counts(measured[None].long(), measured[None].long(), step.num_seen)
    assert counts.shape == (255, 255)
    assert counts.diagonal().nonzero().flatten().tolist() == [0, 253, 254]
    with pytest.raises(UserError, match=r"1\.\.254, found 1\.\.255"):
        TaskPlan(((1, 255),))
    (tmp_path / "classes.txt").write_text("".join(f"class {i}\n" for i in range(1, 256)))
    with pytest.raises(UserError, match="1 to 254 different class names, found 255"):
        open_source("folder", tmp_path, "train")


def wrong_size(root):
    Image.new("L", (20, 20), 1).save(mask_of(root))


def unknown_id(root):
    Image.new("L", (40, 32), 9).save(mask_of(root))


def colour_mask(root):
    Image.new("RGB", (40, 32)).save(mask_of(root))


def truncated_image(root):
    path = root / "JPEGImages/shapes_train_000000.jpg"
    path.write_bytes(path.read_bytes()[:-300])


def broken_mask(root):
    mask_of(root).write_bytes(b"no image")


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (wrong_size, "mask is 20x20 but its image 40x32"),
        (unknown_id, r"unknown id 9: expected 0\.\.4"),
        (colour_mask, "mode RGB"),
        (truncated_image, "cannot be read as an image"),
        (broken_mask, "mask is not readable"),
    ],
)
def test_unsound_files(damage, says, root):
    damage(root)
    with pytest.raises(UserError, match=says):
        checked(open_source("voc", root, "train"))
    report = check_folder(root)
    assert [p.name for p in report.problems] == ["shapes_train_000000"]
    assert len(scan(open_source("voc", root, "train")).problems) == 1


def test_missing_files(root, tmp_path):
    with pytest.raises(UserError, match="no folder"):
        open_source("auto", tmp_path / "nowhere", "train")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="none of the known layouts"):
        open_source("auto", tmp_path / "empty", "train")
    mask_of(root).unlink()
    (root / "JPEGImages/shapes_train_000001.jpg").unlink()
    (root / "JPEGImages/shapes_val_000000.jpg").unlink()
    with pytest.raises(UserError, match=r"shapes_train_000000\.png: is missing.*2 such images"):
        checked(open_source("voc", root, "train"))
    report = check_folder(root)
    assert [p.name for p in report.problems] == ["shapes_train_000000", "shapes_train_000001", "shapes_val_000000"]
    assert not report.broken
    (root / "ImageSets/Segmentation/train_aug.txt").write_text("")
    with pytest.raises(UserError, match="empty"):
        open_source("voc", root, "train")


def test_every_layout_has_its_name_where_the_command_line_reads_it():
    assert set(catalogue.LAYOUTS) == set(SOURCES) == set(LAYOUTS)


@pytest.mark.parametrize("divided", [True, False])
def test_a_folder_may_have_saliency_maps(tmp_path, divided):
    """``saliency/`` has the sub-folders of ``images/``; a map that is missing is named when maps are asked for."""
    root = tmp_path / "own"
    make_shapes(root, num_classes=3, num_train=3, num_val=2, size=(40, 32))
    if not divided:
        for kind in ("images", "masks"):
            for file in (root / kind).glob("*/*"):
                file.rename(root / kind / file.name)
            for split in ("train", "val"):
                (root / kind / split).rmdir()
        (root / "val.txt").write_text("shapes_val_000000\nshapes_val_000001\n")
    assert open_source("folder", root, "train").saliency == ()
    place = root / "saliency/train" if divided else root / "saliency"
    place.mkdir(parents=True)
    for i in range(3):
        Image.new("L", (40, 32), i).save(place / f"shapes_train_{i:06d}.png")
    source = checked(open_source("folder", root, "train"))
    assert [source[i].extras["saliency"].getextrema() for i in range(3)] == [(0, 0), (1, 1), (2, 2)]
    assert open_source("folder", root, "val").saliency == ()
    (place / "shapes_train_000001.png").unlink()
    with pytest.raises(UserError, match=r"shapes_train_000001\.png: the saliency map is missing"):
        checked(open_source("folder", root, "train"))


def test_a_folder_with_maps_of_the_validation_split_alone_lacks_those_of_training(tmp_path):
    make_shapes(tmp_path / "own", num_classes=3, num_train=3, num_val=2, size=(40, 32))
    (tmp_path / "own/saliency/val").mkdir(parents=True)
    with pytest.raises(UserError, match=r"saliency/train/shapes_train_000000\.png: the saliency map is missing"):
        checked(open_source("folder", tmp_path / "own", "train"))
