"""Cityscapes: label ids and train ids give the same 19 classes."""

from __future__ import annotations

import numpy as np
import pytest
from mask_writers import entries, ids_of, imported, masks, reasons, samples, save, write_cityscapes

from barm.data.importers.cityscapes import label_values, labels
from barm.errors import UserError

IDS = np.array([255, 1, 12, 19])  # of what `write_cityscapes` draws


@pytest.mark.parametrize("kind", ["labelIds", "labelTrainIds"])
def test_nineteen_classes_and_no_background(kind, tmp_path):
    write_cityscapes(tmp_path / "in", samples(), (kind,))
    report = imported(tmp_path / "in")
    assert (report.classes[0].name, report.classes[11].name, report.classes[18].name) == ("road", "person", "bicycle")
    assert (len(report.classes), report.background) == (19, 0)
    assert reasons(report) == {"images of the test split, whose masks are dummies": 1}
    for i, sample in enumerate(entries()):
        found = masks(tmp_path / "in")[f"aachen_{i:06}_000019_leftImg8bit"]
        assert np.array_equal(found, IDS[ids_of(sample)])


def test_both_kinds_are_a_question(tmp_path):
    write_cityscapes(tmp_path / "in", samples(), ("labelIds", "labelTrainIds"))
    with pytest.raises(UserError, match=r"give --labels ids \(.*\) or --labels trainids"):
        imported(tmp_path / "in")
    assert len(list((tmp_path / "out-readings").iterdir())) == 2
    assert imported(tmp_path / "in", labels="trainids").images == {"train": 3, "val": 1}


def test_the_kind_that_is_not_there(tmp_path):
    write_cityscapes(tmp_path / "in", samples())
    with pytest.raises(UserError, match=r"--labels trainids expects \*_gtFine_labelTrainIds.png, found none"):
        imported(tmp_path / "in", labels="trainids")


def test_a_value_that_is_no_label(tmp_path):
    write_cityscapes(tmp_path / "in", samples())
    file = next((tmp_path / "in" / "gtFine" / "train").rglob("*000001*labelIds.png"))
    save(np.full((96, 112), 77, np.uint8), file)
    with pytest.raises(UserError, match=r"1 value that Cityscapes' table of labels does not list \(77\)"):
        imported(tmp_path / "in")


def test_coarse_masks_count_where_there_are_no_fine_ones(tmp_path):
    write_cityscapes(tmp_path / "in", samples())
    for file in list((tmp_path / "in" / "gtFine").rglob("*labelIds.png")):
        target = tmp_path / "in" / "gtCoarse" / file.relative_to(tmp_path / "in" / "gtFine")
        target = target.with_name(target.name.replace("gtFine", "gtCoarse"))
        target.parent.mkdir(parents=True, exist_ok=True)
        file.rename(target)
    report = imported(tmp_path / "in")
    assert report.images == {"train": 3, "val": 1}
    assert any("gtCoarse_labelIds" in note for note in report.notes)


def test_images_without_masks_are_told(tmp_path):
    write_cityscapes(tmp_path / "in", samples())
    for file in (tmp_path / "in" / "leftImg8bit").rglob("*.png"):
        file.unlink()
    with pytest.raises(UserError, match=r"expected images \*_leftImg8bit.png of the masks, found none"):
        imported(tmp_path / "in")


def test_the_table():
    table = labels()
    assert [label.id for label in table] == list(range(34))
    assert sum(not label.ignored for label in table) == 19
    assert all((label.train_id == 255) == label.ignored for label in table)
    assert dict(label_values("ids").ids)[26] == dict(label_values("trainids").ids)[13] == 14
