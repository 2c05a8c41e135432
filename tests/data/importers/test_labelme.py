"""LabelMe: kinds of shapes, images that are embedded or elsewhere, the masks of labelme2voc, and damaged files."""

from __future__ import annotations

import base64
import io
import json
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from barm.data.importers import import_data, labelme
from barm.data.importers.annotations import ImportOptions
from barm.data.importers.source_tree import Tree
from barm.errors import UserError

BOX = [[5, 2], [15, 8]]
RING = [[5, 2], [15, 2], [15, 8], [5, 8]]


def png(mask):
    file = io.BytesIO()
    Image.fromarray(mask).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def shape(label="cat", points=RING, kind="polygon", **more):
    return {"label": label, "points": points, "shape_type": kind, **more}


def make(root, *shapes, image="a.png", name="a.json", **more):
    """A JSON file of an image of 20 x 10 pixels."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if image:
        Image.new("RGB", (20, 10)).save(path.parent / image)
    content = {"version": "5.5.0", "flags": {}, "shapes": list(shapes), "imagePath": image or "a.png"}
    path.write_text(json.dumps({**content, "imageData": None, "imageHeight": 10, "imageWidth": 20, **more}))
    return root


def read(root, **options):
    return labelme.read(Tree(root), ImportOptions(**options))


def mask(annotations, i=0):
    return annotations.items[i].paint((20, 10)).ids


@pytest.mark.parametrize(
    "given",
    [
        shape(),
        shape(kind=None),
        shape(points=BOX, kind="rectangle"),
        shape(points=BOX[::-1], kind="rectangle"),
        shape(kind="rectangle"),
        shape(kind="oriented_rectangle"),
        shape(points=[[5, 2], [14, 7]], kind="mask", mask=png(np.full((6, 10), 255, np.uint8))),
    ],
)
def test_kinds_of_shapes_cover_the_same_box(given, tmp_path):
    expected = np.zeros((10, 20), np.uint8)
    expected[2:8, 5:15] = 1
    assert (mask(read(make(tmp_path, given))) == expected).all()


def test_a_circle_reaches_to_its_second_point(tmp_path):
    covered = mask(read(make(tmp_path, shape(points=[[10, 5], [10, 9]], kind="circle"))))
    assert covered.sum() == pytest.approx(np.pi * 16, abs=4)
    assert covered[5, 10]


def test_masks_of_shapes_are_decoded_when_they_are_painted(tmp_path):
    given = shape(points=[[0, 0], [2999, 1999]], kind="mask", mask=png(np.full((2000, 3000), 255, np.uint8)))
    root = make(tmp_path, *[given] * 3, imageHeight=2000, imageWidth=3000)
    tracemalloc.start()
    found = read(root)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 2e6
    assert found.items[0].paint((3000, 2000)).ids.all()


def test_a_mask_that_is_cut_short_leaves_its_image_out(tmp_path):
    text = png(np.random.default_rng(0).integers(0, 2, (60, 60), np.uint8))
    make(tmp_path / "s", shape(points=[[0, 0], [9, 9]], kind="mask", mask=text[: len(text) // 8 * 4]))
    make(tmp_path / "s", shape(), image="b.png", name="b.json")
    report = import_data(tmp_path / "s", tmp_path / "own", ImportOptions(), val_share=0.5)
    (why,) = report.left_out
    assert "a.json: shape 1 (cat): its mask cannot be read as a PNG" in why


def test_a_mask_that_reaches_beyond_the_image_is_cut_off(tmp_path):
    given = shape(points=[[-2, -1], [3, 2]], kind="mask", mask=png(np.full((4, 6), 255, np.uint8)))
    covered = mask(read(make(tmp_path, given)))
    assert covered[:3, :4].all()
    assert covered.sum() == 12


@pytest.mark.parametrize("overlap", ["later", "earlier", "smaller", "ignore"])
def test_a_later_background_takes_out_and_an_earlier_one_does_not(overlap, tmp_path):
    hole = shape("_background_", [[8, 4], [12, 4], [12, 6], [8, 6]])
    later = read(make(tmp_path / "later", shape(), hole), overlap=overlap)
    earlier = read(make(tmp_path / "earlier", hole, shape()), overlap=overlap)
    assert (mask(later).sum(), mask(earlier).sum()) == (60 - 8, 60)
    assert later.items[0].paint((20, 10)).contested == 0


def test_parts_of_a_group_are_one_object(tmp_path):
    parts = [shape(points=[[x, 1], [x + 2, 1], [x + 2, 4]], group_id=3) for x in (1, 6)]
    painted = read(make(tmp_path, *parts, shape(), shape("dog", group_id=3))).items[0].paint((20, 10))
    assert painted.objects == {1: 2, 2: 1}


def test_shapes_without_an_area_are_counted(tmp_path):
    given = [shape(points=[[1, 1]], kind="point"), shape(kind="linestrip"), shape(kind="line"), shape(points=BOX)]
    found = read(make(tmp_path, shape(), *given))
    assert found.left_out["shapes without an area (linestrip)"] == 1
    assert found.left_out["polygons of fewer than three points"] == 1
    assert sum(found.left_out.values()) == 4


def test_labels_are_not_taken_apart_and_ignored_ones_are_noted(tmp_path):
    found = read(make(tmp_path, shape("car-1"), shape("car-2, red"), shape("__ignore__"), shape("ä")))
    assert found.classes == ("car-1", "car-2, red", "ä")
    assert found.notes == ("'__ignore__' is read as ignored (255)",)


def test_labels_txt_gives_the_order(tmp_path):
    root = make(tmp_path, shape("cat"), shape("dog"), shape("ant"))
    (root / "labels.txt").write_text("__ignore__\n_background_\ndog\ncat\n")
    assert read(root).classes == ("dog", "cat", "ant")


def test_the_image_may_be_elsewhere_or_embedded(tmp_path):
    file = io.BytesIO()
    Image.new("RGB", (20, 10), (9, 8, 7)).save(file, "PNG")
    make(tmp_path / "s", shape(), name="json/a.json", image="", imagePath="..\\images\\A.PNG")
    (tmp_path / "s/images").mkdir()
    Image.new("RGB", (20, 10)).save(tmp_path / "s/images/a.png")
    make(tmp_path / "s", shape(), name="json/b.json", image="", imagePath="gone.jpg", imageData="")
    data = base64.b64encode(file.getvalue()).decode()
    make(tmp_path / "s", shape(), name="json/c.json", image="", imagePath="c.jpg", imageData=data, imageHeight=None)
    report = import_data(tmp_path / "s", tmp_path / "own", ImportOptions(), val_share=0.5)
    assert report.left_out == {"images that are not there, such as gone.jpg": 1}
    written = {path.stem: path for path in (tmp_path / "own/images").rglob("*.png")}
    assert set(written) == {"a", "c"}
    assert Image.open(written["c"]).getpixel((0, 0)) == (9, 8, 7)


def test_an_image_of_another_folder_does_not_get_the_shapes(tmp_path):
    make(tmp_path, shape(), image="2.png", name="one/2.json")
    make(tmp_path, shape(), image="", imagePath="1.png", name="one/1.json")
    make(tmp_path, shape("dog"), image="1.png", name="two/1.json")
    found = read(tmp_path)
    assert [item.name for item in found.items] == ["one/2", "two/1"]
    assert found.left_out == {"images that are not there, such as 1.png": 1}


def test_two_files_of_one_image_are_refused(tmp_path):
    make(tmp_path, shape())
    with pytest.raises(UserError, match=r"a\.json and .*b\.json are both of the image a\.png"):
        read(make(tmp_path, shape(), name="b.json"))


def test_an_image_of_points_alone_is_not_background(tmp_path):
    found = read(make(tmp_path, shape(points=[[1, 1]], kind="point")), empty="background")
    assert found.items == ()
    assert found.left_out["images whose annotations are all left out"] == 1


def test_an_image_without_shapes_is_left_out_unless_it_is_background(tmp_path):
    make(tmp_path, shape())
    make(tmp_path, image="b.png", name="b.json")
    assert len(read(tmp_path).items) == 1
    assert not mask(read(tmp_path, empty="background"), 1).any()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"label": "cat", "points": [[1, float("nan")], [2, 2], [3, 1]]}, "expected points"),
        ({"label": "cat", "points": [[1, 2, 3]]}, "expected points"),
        ({"label": "cat", "points": [[10**400, 1], [2, 2], [3, 1]]}, "expected points"),
        ({"label": "cat", "points": "none"}, "expected points"),
        ({"label": "cat", "points": [[1, 1]], "shape_type": "circle"}, "circle of two points"),
        ({"label": "cat", "points": BOX, "shape_type": "mask", "mask": "!"}, "cannot be read as a PNG"),
        ({"label": "cat", "points": [], "shape_type": "mask", "mask": "!"}, "corners of its mask"),
        ({"label": 3, "points": RING}, "shape with a label"),
        ({"label": " ", "points": RING}, "a class has no name"),
        ({"label": "a\ud800", "points": RING}, "cannot be printed"),
        ("cat", "shape with a label"),
    ],
)
def test_a_shape_that_is_damaged_is_refused(given, told, tmp_path):
    with pytest.raises(UserError, match="json: ") as error:
        read(make(tmp_path, given))
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_an_embedded_image_that_is_damaged_is_left_out(tmp_path):
    make(tmp_path / "s", shape())
    make(tmp_path / "s", shape(), name="b.json", image="", imagePath="b.png", imageData="bm8gaW1hZ2U=")
    report = import_data(tmp_path / "s", tmp_path / "own", ImportOptions(), val_share=0.5)
    assert report.left_out == {"images that cannot be read, such as b: what is embedded is no image": 1}


def make_voc(root, values, masks="SegmentationClassPNG"):
    for folder in ("JPEGImages", masks):
        (root / folder).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 10)).save(root / "JPEGImages/a.jpg")
    written = Image.fromarray(np.full((10, 20), values, np.uint8))
    written.putpalette(bytes(range(256)) * 3)
    written.save(root / masks / "a.png")
    (root / "class_names.txt").write_text("_background_\ndog\ncat")
    return root


@pytest.mark.parametrize("masks", labelme.MASKS)
def test_masks_of_labelme2voc_are_read_by_their_indices(masks, tmp_path):
    root = make_voc(tmp_path, np.tile([0, 1, 2, 255], 5), masks)
    assert labelme.lacks(Tree(root)) is None
    found = read(root)
    assert (found.classes, found.values) == (("dog", "cat"), {"dog": "1", "cat": "2"})
    assert mask(found)[0, :4].tolist() == [0, 1, 2, 255]


def test_an_index_without_a_name_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"a\.png: 200 pixels .*class_names\.txt does not list \(3\): add a line"):
        read(make_voc(tmp_path, 3))


def test_a_mask_that_is_damaged_or_has_no_image_is_left_out(tmp_path):
    root = make_voc(tmp_path, 1)
    (root / "SegmentationClassPNG/b.png").write_bytes(b"no image")
    for name in "bd":
        Image.new("RGB", (20, 10)).save(root / f"JPEGImages/{name}.jpg")
    Image.new("P", (20, 10)).save(root / "SegmentationClassPNG/c.png")
    assert read(root).left_out == {
        "masks that cannot be read, such as SegmentationClassPNG/b.png": 1,
        "masks without an image, such as SegmentationClassPNG/c.png": 1,
        "images without a mask (--empty background keeps them), such as JPEGImages/d.jpg": 1,
    }


def test_images_of_masks_may_lie_elsewhere(tmp_path):
    root = make_voc(tmp_path / "s", 1)
    (root / "JPEGImages").rename(tmp_path / "photos")
    tree = Tree(root, tmp_path / "photos")
    assert labelme.lacks(tree) is None
    assert [item.image for item in labelme.read(tree, ImportOptions()).items] == [tmp_path / "photos/a.jpg"]


def test_the_json_files_are_read_where_both_are_there(tmp_path):
    found = read(make(make_voc(tmp_path, 1), shape("cat")))
    assert (len(found.items), found.classes) == (1, ("dog", "cat"))
    assert "repeat the JSON files" in found.notes[0]
