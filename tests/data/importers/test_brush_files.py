"""Label Studio's images of strokes: which region each of them is, and which label where it is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from barm.data.importers.brush_files import FILE, Stroke, stroke, stroke_files, with_strokes
from barm.data.importers.source_tree import Tree
from barm.errors import UserError


def brushed(label, control="tag", **more):
    return {"labels": [label], "control": control, "type": "brushlabels", "rle": [1], **more}


def files(*names):
    return [Stroke(Path(name), name[:-2], int(name[-1])) for name in names]


def told(regions):
    """Label and file of every region."""
    return [(region["labels"][0], str(region.get(FILE, ""))) for region in regions]


def test_files_are_known_by_their_names(tmp_path):
    names = ["task-12-annotation-7-by-1-tag-cat-1.png", "Task-12-annotation-7-by-a@b.c-tag-cat-0.PNG", "task-1.png"]
    for name in names:
        (tmp_path / name).touch()
    (found,) = stroke_files(Tree(tmp_path)).items()
    assert found[0] == ("12", "7")
    assert [(each.tag, each.number) for each in found[1]] == [("tag-cat", 0), ("tag-cat", 1)]


def test_a_file_takes_the_place_of_the_stroke_that_it_repeats():
    polygon = {"labels": ["cat"], "control": "tag", "points": []}
    regions = [brushed("cat"), polygon, brushed("a/b"), brushed("cat")]
    found = with_strokes(regions, files("tag-cat-1", "tag-a-b-0"), {"tag"}, {"cat", "a/b"})
    assert told(found) == [("cat", ""), ("cat", ""), ("a/b", "tag-a-b-0"), ("cat", "tag-cat-1")]


def test_files_that_are_numbered_otherwise_are_taken_in_their_order():
    found = with_strokes([brushed("cat"), brushed("cat")], files("tag-cat-3", "tag-cat-5"), {"tag"}, {"cat"})
    assert told(found) == [("cat", "tag-cat-3"), ("cat", "tag-cat-5")]


@pytest.mark.parametrize(
    ("tag", "label"),
    [
        ("tag-cat", "cat"),
        ("my-tag-hot-cat", "hot-cat"),
        ("my-tag-new-one", "new-one"),
        ("x-cow", "cow"),
        ("x-cat", "cat"),
    ],
)
def test_a_stroke_that_the_json_file_lacks_follows(tag, label):
    found = with_strokes([brushed("dog")], files(f"{tag}-0"), {"tag", "my-tag"}, {"cat", "hot-cat"})
    assert told(found) == [("dog", ""), (label, f"{tag}-0")]


@pytest.mark.parametrize(
    ("tag", "reading"),
    [
        ("x-hot-cat", "'cat' or 'hot-cat'"),
        ("tag-old-cat", "'cat' or 'old-cat'"),
        ("x-y-z", "any end of it"),
    ],
)
def test_a_label_that_is_not_clear_is_refused(tag, reading):
    with pytest.raises(UserError, match=f"in '{tag}' the label may be {reading}: rename") as error:
        with_strokes([], files(f"{tag}-0"), {"tag"}, {"cat", "hot-cat"})
    assert "\n" not in str(error.value)


def test_opacity_of_half_and_more_belongs_to_a_stroke(tmp_path):
    Image.fromarray(np.array([[0, 127, 128, 255]], np.uint8)).save(tmp_path / "a.png")
    patch = stroke(tmp_path / "a.png")((4, 1))
    assert (patch.left, patch.mask.tolist()) == (2, [[True, True]])
    Image.fromarray(np.array([[0, 1, 1, 1]], np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match="holds up to 1, expected 0 and 255"):
        stroke(tmp_path / "a.png")((4, 1))
