"""Formats with a mask per image: what was written comes back, pixel by pixel, and nothing else is taken for it."""

from __future__ import annotations

import mask_writers
import numpy as np
import pytest
from mask_writers import (
    NAMES,
    entries,
    ids_of,
    imported,
    masks,
    reasons,
    samples,
    save,
    write_colours,
    write_cvat,
    write_indexed,
)
from PIL import Image

from barm.catalogue import FORMATS
from barm.data.importers import IMPORTERS, detect_format
from barm.data.importers.source_tree import Tree

MASK_FORMATS = ("cvat", "colours", "binary", "indexed", "cityscapes")


def test_the_command_line_knows_all_formats():
    assert tuple(IMPORTERS) == FORMATS


@pytest.mark.parametrize("kind", MASK_FORMATS)
def test_a_folder_is_of_one_format(kind, tmp_path):
    getattr(mask_writers, f"write_{kind}")(tmp_path / "in", samples())
    tree = Tree(tmp_path / "in")
    assert [name for name in IMPORTERS if IMPORTERS[name].lacks(tree) is None] == [kind]
    assert detect_format(tree) == kind


@pytest.mark.parametrize("kind", ["cvat", "colours", "binary", "indexed"])
def test_masks_come_back(kind, tmp_path):
    made = samples()
    getattr(mask_writers, f"write_{kind}")(tmp_path / "in", made)
    report = imported(tmp_path / "in")
    names = [each.name for each in report.classes]
    assert reasons(report) == {}
    assert sorted(names) == sorted(NAMES)
    found = masks(tmp_path / "in")
    assert {name.removesuffix("_L") for name in found} == {sample.name for sample in entries(made)}
    for sample in entries(made):
        assert np.array_equal(found[sample.name], ids_of(sample, names))


@pytest.mark.parametrize("kind", ["cvat", "colours", "cityscapes"])
def test_splits_of_the_source_are_kept(kind, tmp_path):
    getattr(mask_writers, f"write_{kind}")(tmp_path / "in", samples())
    assert imported(tmp_path / "in").images == {"train": 3, "val": 1}


def test_the_values_of_the_source_are_kept(tmp_path):
    from barm.data.class_values import read_class_values

    write_cvat(tmp_path / "in", samples())
    imported(tmp_path / "in")
    values = read_class_values(tmp_path / "out" / "source_classes.toml")
    written = {values.written(value): value_id for value, value_id in values.ids}
    assert written == {"#000000": 0, "#804080": 1, "#00c80a": 2, "#faaa1e": 3}


def test_unreadable_and_lone_files_are_counted(tmp_path):
    made = samples(6)
    write_indexed(tmp_path / "in", made)
    (tmp_path / "in" / "labels" / "image1.png").write_bytes(b"no mask")
    (tmp_path / "in" / "labels" / "image2.png").unlink()
    (tmp_path / "in" / "images" / "image3.jpg").unlink()
    save(Image.new("L", (50, 50)), tmp_path / "in" / "labels" / "image4.png")
    report = imported(tmp_path / "in")
    assert reasons(report) == {
        "masks without an image": 1,
        "masks that cannot be read": 1,
        "images without a mask (--empty background keeps them)": 1,
        "images without a mask that fits": 1,
    }
    assert sum(report.images.values()) == 2


def test_images_without_a_mask_can_be_background(tmp_path):
    write_colours(tmp_path / "in", samples())
    (tmp_path / "in" / "train_labels" / "image0_L.png").unlink()
    assert imported(tmp_path / "in", empty="background").left_out == {}
    assert masks(tmp_path / "in")["image0"].max() == 0


def test_images_may_be_elsewhere(tmp_path):
    write_cvat(tmp_path / "in", samples())
    (tmp_path / "in" / "JPEGImages").rename(tmp_path / "photos")
    report = imported(tmp_path / "in", images=tmp_path / "photos")
    assert (report.format, report.images) == ("cvat", {"train": 3, "val": 1})


def test_the_command_says_what_it_did_and_errors_are_one_line(cli, tmp_path):
    write_indexed(tmp_path / "in", samples())
    status, shown, _ = cli("data", "import", tmp_path / "in", tmp_path / "out", "--val", "0.5")
    assert status == 0
    assert "hot dog" in shown
    assert "0 is background, 1, 2, ... are named by classes.txt" in shown
    (tmp_path / "in" / "classes.txt").unlink()
    status, _, error = cli("data", "import", tmp_path / "in", tmp_path / "new")
    assert (status, error.count("\n")) == (2, 1)
    assert not (tmp_path / "new").exists()
    assert cli("data", "import", tmp_path / "in", tmp_path / "new", "--classes", "a,b,c", "--first", "1")[0] == 0
