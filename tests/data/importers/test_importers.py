"""What holds for every format: it is recognised, and what a tool wrote comes out as it was drawn."""

from __future__ import annotations

import json
from dataclasses import fields

import mask_writers
import numpy as np
import pytest
import samples
import writers
from PIL import Image

from barm.catalogue import FORMATS
from barm.data.importers import COMMON, IMPORTERS, detect_format, import_data
from barm.data.importers.annotations import ImportOptions
from barm.data.importers.source_tree import Tree
from barm.data.sources import open_source
from barm.errors import UserError

BOTH = {**vars(writers), **vars(mask_writers)}
WRITERS = {name.removeprefix("write_"): f for name, f in BOTH.items() if name.startswith("write_")}


def test_the_catalogue_names_every_importer():
    assert set(FORMATS) == set(IMPORTERS) == set(WRITERS)


@pytest.mark.parametrize("name", WRITERS)
def test_exactly_one_format_is_recognised(name, tmp_path):
    WRITERS[name](tmp_path / "source", samples.samples())
    assert detect_format(Tree(tmp_path / "source")) == name


def test_what_is_of_no_format_is_told_what_was_tried(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing\n")
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(UserError, match="of no format") as error:
        detect_format(Tree(tmp_path))
    assert all(importer.title in str(error.value) for importer in IMPORTERS.values())
    assert "\n" not in str(error.value)


def test_a_folder_of_two_formats_is_asked_about(tmp_path):
    writers.write_yolo(tmp_path, samples.samples())
    writers.write_labelme(tmp_path, samples.samples())
    with pytest.raises(UserError, match=r"--format labelme.*--format yolo"):
        detect_format(Tree(tmp_path))


@pytest.mark.parametrize(
    ("name", "holes"),
    [("coco", False), ("coco", True), ("yolo", False), ("labelme", False), ("labelme", True), ("label_studio", False)],
)
def test_objects_come_out_as_they_were_drawn(name, holes, tmp_path):
    drawn = samples.samples(holes=holes)
    WRITERS[name](tmp_path / "source", drawn)
    options = ImportOptions(rings="holes" if holes and name == "coco" else "ask")
    report = import_data(tmp_path / "source", tmp_path / "own", options, val_share=0.5)
    assert [(one.name, one.objects) for one in report.classes] == [(label, 2) for label in samples.LABELS]
    for i, (_, objects) in enumerate(drawn):
        samples.compare(samples.imported(tmp_path / "own", i), objects)
    assert report.left_out == {}


def test_strokes_come_out_to_the_pixel(tmp_path):
    drawn = samples.samples(holes=True)
    writers.write_label_studio(tmp_path / "source", drawn)
    import_data(tmp_path / "source", tmp_path / "own", ImportOptions(), val_share=0.5)
    for i, (image, objects) in enumerate(drawn):
        samples.compare(samples.imported(tmp_path / "own", i), objects)
        stroke = writers.stroke(objects[0][1], image.size)
        assert (samples.imported(tmp_path / "own", i) == 1).sum() == stroke.sum()


def test_a_reading_that_cannot_be_shown_is_named_without_an_image(tmp_path):
    writers.write_label_studio(tmp_path / "source", samples.samples(number=1))
    path = tmp_path / "source/project.json"
    tasks = json.loads(path.read_text())
    tasks[0]["annotations"] *= 2
    path.write_text(json.dumps(tasks))
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(tmp_path / "source/image0.png")
    with pytest.raises(UserError, match=r"cannot be shown: \d+x\d+ pixels were annotated, the image has 9x9") as error:
        import_data(tmp_path / "source", tmp_path / "own", ImportOptions(), val_share=0.5)
    assert "\n" not in str(error.value)


def test_groups_are_kept_together_even_where_the_tool_divided_them(tmp_path):
    writers.write_yolo(tmp_path / "source", samples.samples(number=6))
    with pytest.raises(UserError, match=r"divides its images already, .* add --anew"):
        import_data(tmp_path / "source", tmp_path / "own", group_by="(.)$")
    report = import_data(tmp_path / "source", tmp_path / "own", val_share=0.4, group_by=r"(\d)$", anew=True)
    assert sum(report.images.values()) == 6
    assert (tmp_path / "own/train.txt").is_file()


def test_images_of_one_name_in_two_splits_are_told_apart_when_divided_anew(tmp_path):
    writers.write_yolo(tmp_path / "source", samples.samples(number=3))
    for kind, ending in (("images", "png"), ("labels", "txt")):
        (tmp_path / f"source/{kind}/val/image2.{ending}").rename(tmp_path / f"source/{kind}/val/image0.{ending}")
    import_data(tmp_path / "source", tmp_path / "own", anew=True)
    names = {path.stem for path in (tmp_path / "own/images").iterdir()}
    assert names == {"train-image0", "train-image1", "val-image0"}
    assert sum(len(open_source("folder", tmp_path / "own", split)) for split in ("train", "val")) == 3


def test_options_of_other_formats_are_refused(tmp_path):
    writers.write_coco(tmp_path / "source", samples.samples())
    with pytest.raises(UserError, match=r"--labels has no meaning for COCO JSON \(--format coco\): leave it out"):
        import_data(tmp_path / "source", tmp_path / "own", ImportOptions(labels="ids"))


def test_every_option_belongs_to_a_format():
    known = {*COMMON, *(option for importer in IMPORTERS.values() for option in importer.options)}
    assert known == {field.name for field in fields(ImportOptions)}


def test_coordinates_that_are_shares_of_the_size_are_seen(tmp_path):
    writers.write_coco(tmp_path / "source", samples.samples())
    path = tmp_path / "source/instances.json"
    content = json.loads(path.read_text())
    for one in content["annotations"]:
        one["segmentation"] = [[number / 1000 for number in ring] for ring in one["segmentation"]]
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"no pixel shows a class; 6 objects have no pixel, .*shares of its size"):
        import_data(tmp_path / "source", tmp_path / "own")
    content["annotations"][0]["segmentation"] = [[10, 10, 60, 10, 60, 60]]
    path.write_text(json.dumps(content))
    assert "5 objects have no pixel" in import_data(tmp_path / "source", tmp_path / "own").warnings[0]


def test_a_file_is_not_taken_for_a_folder(tmp_path):
    (tmp_path / "export.zip").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"export.zip is a file: give the folder that holds it, and unpack an archive"):
        import_data(tmp_path / "export.zip", tmp_path / "own")
