"""Errors name the file that is wrong, and links lead to no file outside of the source."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from barm.data.importers import import_data
from barm.data.importers.source_tree import Tree
from barm.errors import UserError

BAD = "a\ud800"
RING = [[0, 0], [16, 0], [16, 16], [0, 16]]


def labelme(label: str, image: str) -> object:
    shape = {"label": label, "points": RING, "shape_type": "polygon"}
    return {"shapes": [shape], "imagePath": image, "imageHeight": 20, "imageWidth": 20, "imageData": None}


def coco(label: str, image: str) -> object:
    ring = [number for point in RING for number in point]
    return {
        "images": [{"id": 1, "file_name": image, "width": 20, "height": 20}],
        "categories": [{"id": 1, "name": label}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "segmentation": [ring]}],
    }


def label_studio(label: str, image: str) -> object:
    value = {"points": [[5 * x, 5 * y] for x, y in RING], "polygonlabels": [label]}
    result = {"type": "polygonlabels", "value": value, "original_width": 20, "original_height": 20, "id": "r"}
    return [{"id": 1, "data": {"image": image}, "annotations": [{"id": 1, "result": [result]}]}]


def write(folder: Path, make, *labels: str) -> Path:
    folder.mkdir()
    for i, label in enumerate(labels):
        Image.new("RGB", (20, 20)).save(folder / f"{i}.png")
        (folder / f"{i}.json").write_text(json.dumps(make(label, f"{i}.png")))
    return folder


@pytest.mark.parametrize("make", [labelme, coco, label_studio])
@pytest.mark.parametrize(("bad", "what"), [(BAD, "cannot be printed"), (" ", "a class has no name")])
def test_a_bad_class_name_is_told_of_its_own_file(make, bad, what, tmp_path):
    source = write(tmp_path / "source", make, "good", bad, "other")
    with pytest.raises(UserError, match=rf"{re.escape(str(source / '1.json'))}.*{what}"):
        import_data(source, tmp_path / "out")


@pytest.mark.parametrize("name", ["0.png", "0.json"])
def test_a_link_that_leads_out_of_the_source_is_refused(name, tmp_path):
    source = write(tmp_path / "source", labelme, "good", "good")
    secret = (source / name).rename(tmp_path / f"secret{Path(name).suffix}")
    (source / name).symlink_to(secret)
    with pytest.raises(UserError, match=rf"{name} is a link to a file outside of .*: add --follow-links"):
        import_data(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_links_that_lead_out_of_the_source_are_followed_where_it_is_asked(tmp_path):
    """A folder of links to a store of images, and a circle of links."""
    source, store = write(tmp_path / "source", labelme, "good", "good"), tmp_path / "store/deep"
    store.mkdir(parents=True)
    (source / "0.png").rename(store / "0.png")
    (source / "1.png").rename(store / "1.png")
    (source / "0.png").symlink_to(store / "0.png")
    (source / "photos").symlink_to(store.parent, target_is_directory=True)
    (store / "back").symlink_to(source, target_is_directory=True)
    tree = Tree(source, follow_links=True)
    assert [str(f) for f in tree.files] == ["0.json", "0.png", "1.json", "photos/deep/0.png", "photos/deep/1.png"]
    report = import_data(source, tmp_path / "out", follow_links=True)
    assert report.images == {"train": 1, "val": 1}
    assert not any(path.is_symlink() for path in (tmp_path / "out").rglob("*"))


def test_a_folder_to_which_several_links_lead_is_read_once_and_at_its_own_place(tmp_path):
    source = write(tmp_path / "source", labelme, "good", "good")
    (source / "a").symlink_to(source / "z", target_is_directory=True)
    (source / "b").symlink_to(tmp_path / "store", target_is_directory=True)
    (source / "c").symlink_to(tmp_path / "store", target_is_directory=True)
    (source / "up").symlink_to(tmp_path, target_is_directory=True)
    (source / "loop").symlink_to("loop")
    for folder in (source / "z", tmp_path / "store"):
        folder.mkdir()
        (folder / "0.json").write_text("{}")
    (tmp_path / "beside.json").write_text("{}")
    files = [str(file) for file in Tree(source, follow_links=True).files]
    assert files == ["0.json", "0.png", "1.json", "1.png", "b/0.json", "up/beside.json", "z/0.json"]
    assert set(Tree(source, source, follow_links=True).images) == {"0.png", "1.png"}  # a folder within the source
    with pytest.raises(UserError, match=r"out lies in .*, which is imported"):
        import_data(source, tmp_path / "out", follow_links=True)


def test_links_within_a_source_and_the_caches_of_the_hub_are_followed(tmp_path):
    source = write(tmp_path / "source", labelme, "good", "good")
    (source / "photos").mkdir()
    (source / "0.png").rename(source / "photos/0.png")
    (source / "0.png").symlink_to("photos/0.png")
    (tmp_path / "other").symlink_to(source, target_is_directory=True)
    assert import_data(tmp_path / "other", tmp_path / "out").images

    for folder in ("hub/blobs", "hub/snapshots/1"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "hub/blobs/abc").write_bytes(b"x")
    (tmp_path / "hub/snapshots/1/a.parquet").symlink_to("../../blobs/abc")
    assert [str(file) for file in Tree(tmp_path / "hub/snapshots/1").files] == ["a.parquet"]
