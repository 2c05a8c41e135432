"""What holds for every format: it is recognised, and what a tool wrote comes out as it was drawn."""

from __future__ import annotations

import json

import mask_writers
import numpy as np
import pytest
import samples
import writers
from PIL import Image

from barm.catalogue import FORMATS
from barm.data.importers import IMPORTERS, detect_format, import_data
from barm.data.importers.annotations import ImportOptions
from barm.data.importers.source_tree import Tree
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
