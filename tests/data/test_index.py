"""A remembered index that is damaged is found out anew, whatever stands in it."""

from __future__ import annotations

import json
import os
import shutil

import pytest

from barm.data.decoded import DecodedSource
from barm.data.index import _cache_path, checked, read_class_list, scan, write_class_list
from barm.data.sources import open_source


@pytest.fixture
def source(shapes_voc, tmp_path, monkeypatch):
    monkeypatch.setenv("BARM_CACHE", str(tmp_path / "cache"))
    shutil.copytree(shapes_voc, tmp_path / "data")
    return open_source("voc", tmp_path / "data", "train")


TEXTS = [
    "[]",
    "null",
    "{}",
    '"x"',
    "[" * 100_000,
    '{"a":' * 2_000 + "1" + "}" * 2_000,
    "",
    "{",
    b"\xff\xfe",
    "1" * 5000,
]


@pytest.mark.parametrize("content", TEXTS, ids=range(len(TEXTS)))
def test_any_content(content, source):
    sound, path = scan(source), _cache_path(source)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert scan(source) == sound
    assert len(json.loads(path.read_text("utf-8").partition("\n")[2])) == len(source)


@pytest.mark.parametrize(
    "make", [os.mkfifo, os.mkdir, lambda p: os.symlink("/dev/zero", p), lambda p: os.symlink(p, p)]
)
def test_no_file(make, source):
    sound, path = scan(source), _cache_path(source)
    path.unlink()
    make(path)
    assert scan(source) == sound


@pytest.mark.parametrize("key", ["key", "size", "classes"])
@pytest.mark.parametrize("value", [None, "x", [[]], [-1, -1], [0], {}, 3, ["1", "2"], "missing"])
def test_entries_of_other_types(key, value, source):
    sound, path = scan(source), _cache_path(source)
    known = json.loads(path.read_text("utf-8").partition("\n")[2])
    for entry in known.values():
        entry[key] = value
        if value == "missing":
            del entry[key]
    path.write_text(json.dumps(known), "utf-8")
    assert scan(source) == sound


@pytest.mark.parametrize("places", [None, "x", [[0, 1]], [[-1, 48, 48]], [["a", 1, 1]], [[0, 10**9, 10**9]], [3]])
def test_decoded_images_at_impossible_places(places, source):
    first = DecodedSource(checked(source), 1 << 20)
    record = next((_cache_path(source).parent).glob("decoded-*.json"))
    about = json.loads(record.read_text("utf-8"))
    record.write_text(json.dumps({**about, "places": places}), "utf-8")
    again = DecodedSource(checked(source), 1 << 20)
    assert again.places == first.places
    assert list(again[3].image.getdata()) == list(first[3].image.getdata())


def test_names_of_images_with_spaces_in_class_lists(shapes_voc, tmp_path):
    """``kitchen 1 0 3`` is the image 'kitchen 1' with two classes, where there is such an image."""
    root = shutil.copytree(shapes_voc, tmp_path / "data")
    for folder, suffix in (("JPEGImages", "jpg"), ("SegmentationClassAug", "png"), ("saliency_map", "png")):
        (root / folder / f"shapes_train_000000.{suffix}").rename(root / folder / f"kitchen 1.{suffix}")
    path = root / "ImageSets/Segmentation/train_aug.txt"
    path.write_text(path.read_text().replace("shapes_train_000000", "kitchen 1"))
    source = checked(open_source("voc", root, "train"))
    assert source.names[0] == "kitchen 1"
    write_class_list(tmp_path / "list.txt", source)
    assert read_class_list(tmp_path / "list.txt", source.names)["kitchen 1"] == source.classes_in(0)
    assert checked(source, tmp_path / "list.txt").classes_in(0) == source.classes_in(0)
