"""Any value in the place of any other of an annotation file is read, or refused in one line."""

from __future__ import annotations

import copy
import json
from itertools import product
from pathlib import Path

import pytest
import samples
import writers
from PIL import Image

from barm.data.importers import IMPORTERS, import_data
from barm.data.importers.annotations import ImportOptions
from barm.data.importers.source_tree import Tree
from barm.errors import UserError

JUNK = (None, True, -1, 0.5, float("nan"), 10**400, "", "a", "\0", [], [[]], [None], ["a"], {}, {"a": 1})


def write_coco(root: Path) -> None:
    """A COCO file of one image with polygons, a box and run lengths."""
    ((image, objects),) = samples.samples(number=1)
    root.mkdir()
    image.save(root / "image0.png")
    shapes = [rings[0].ravel().tolist() for _, rings in objects]
    annotations = [{"id": 1, "image_id": 1, "category_id": 1, "segmentation": [shapes[0]], "bbox": [1, 2, 3, 4]}]
    annotations.append({"id": 2, "image_id": 1, "category_id": 1, "segmentation": [], "bbox": [1, 2, 3, 4]})
    runs = {"size": [120, 160], "counts": [0, 120 * 160]}
    annotations.append({"id": 3, "image_id": 1, "category_id": 1, "segmentation": runs, "iscrowd": 1})
    content = {"images": [{"id": 1, "file_name": "image0.png", "width": 160, "height": 120}]}
    content |= {"annotations": annotations, "categories": [{"id": 1, "name": "cat", "supercategory": "animal"}]}
    (root / "a.json").write_text(json.dumps(content))


SOURCES = {
    "coco": write_coco,
    "labelme": lambda root: writers.write_labelme(root, samples.samples(number=1, holes=True)),
    "label_studio": lambda root: writers.write_label_studio(root, samples.samples(number=1, holes=True)),
}


def places(value, start=()):
    """Where values stand in a JSON document; of long lists the first two."""
    yield start
    inner = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    for key, each in inner:
        yield from places(each, (*start, key))


def changed(content, place, value):
    if not place:
        return value
    result = copy.deepcopy(content)
    inner = result
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return result


@pytest.mark.parametrize("name", SOURCES)
def test_any_value_in_the_place_of_any_other(name, tmp_path):
    SOURCES[name](tmp_path / "s")
    (file,) = (tmp_path / "s").glob("*.json")
    content = json.loads(file.read_text())
    options = ImportOptions(format=name, boxes="fill", annotator="last")
    tried, refused = list(product(places(content), JUNK)), list[str]()
    for place, junk in tried:
        file.write_text(json.dumps(changed(content, place, junk)))
        try:
            found = IMPORTERS[name].read(Tree(tmp_path / "s"), options)
        except UserError as error:
            refused.append(str(error))
        else:
            for item in found.items:
                assert item.size not in (None, samples.SIZE) or item.paint(samples.SIZE).ids.shape == samples.SIZE[::-1]
    assert not [line for line in refused if "\n" in line]
    assert len(refused) > len(tried) / 4


def test_the_source_is_importable_as_it_is(tmp_path):
    for name, write in SOURCES.items():
        write(tmp_path / name)
        boxes = "fill" if "boxes" in IMPORTERS[name].options else "ignore"
        import_data(tmp_path / name, tmp_path / f"{name}-own", ImportOptions(boxes=boxes), val_share=0.2)
        assert Image.open(next((tmp_path / f"{name}-own/masks").rglob("*.png"))).getextrema()[1] > 0
