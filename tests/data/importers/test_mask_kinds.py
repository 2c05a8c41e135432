"""The kind of a folder's masks is known from a few of them, and special formats come first."""

from __future__ import annotations

import numpy as np
import pytest
from mask_writers import entries, ids_of, samples, save, write_cvat, write_indexed

from barm.data.importers import detect_format
from barm.data.importers.mask_kinds import mask_kind
from barm.data.importers.source_tree import Tree
from barm.errors import UserError


@pytest.mark.parametrize(
    ("names", "kind"),
    [(None, "binary"), ("cat\n", "binary"), ("cat\ndog\n", "indexed"), ("background\ncat\ndog", "indexed")],
)
def test_names_tell_whether_zero_and_one_are_all(names, kind, tmp_path):
    for sample in entries():
        save(sample.image, tmp_path / "images" / f"{sample.name}.jpg")
        save((ids_of(sample) == 1).astype(np.uint8), tmp_path / "masks" / f"{sample.name}.png")
    if names:
        (tmp_path / "classes.txt").write_text(names)
    assert detect_format(Tree(tmp_path)) == kind


def test_a_table_of_greys_makes_colours_of_them(tmp_path):
    for sample in entries():
        save(sample.image, tmp_path / "images" / f"{sample.name}.jpg")
        save(np.stack([ids_of(sample) * 40] * 3, axis=-1), tmp_path / "masks" / f"{sample.name}.png")
    assert mask_kind(Tree(tmp_path)).kind == "indexed"
    (tmp_path / "grey.csv").write_text("background,#000000\ncat,#282828\n")
    assert mask_kind(Tree(tmp_path)).kind == "colours"


def test_masks_that_cannot_be_read_are_of_no_kind(tmp_path):
    write_indexed(tmp_path, samples())
    for file in (tmp_path / "labels").iterdir():
        file.write_bytes(b"")
    with pytest.raises(UserError, match=r"image0.png cannot be read as a mask"):
        detect_format(Tree(tmp_path))


def test_photographs_alone_are_of_no_kind(tmp_path):
    for sample in entries():
        save(sample.image, tmp_path / f"{sample.name}.jpg")
    with pytest.raises(UserError, match=r"4 files\) is of no format .* no masks \(a folder such as masks"):
        detect_format(Tree(tmp_path))


def test_other_formats_masks_are_not_taken(tmp_path):
    write_cvat(tmp_path / "cvat", samples())
    assert mask_kind(Tree(tmp_path / "cvat")).kind is None
    write_indexed(tmp_path / "labelme", samples())
    (tmp_path / "labelme" / "labels").rename(tmp_path / "labelme" / "SegmentationClassPNG")
    (tmp_path / "labelme" / "classes.txt").rename(tmp_path / "labelme" / "class_names.txt")
    assert mask_kind(Tree(tmp_path / "labelme")).kind is None
