"""COCO JSON: the folders that tools export, what is strange but legal, and files that contradict themselves."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from barm.data.importers import coco, import_data
from barm.data.importers.annotations import BOXES, Ambiguous, ImportOptions, Undecided
from barm.data.importers.source_tree import Tree
from barm.errors import UserError

RING = [5, 2, 15, 2, 15, 8, 5, 8]
HOLE = [8, 4, 12, 4, 12, 6, 8, 6]


def runs(left=5, right=15, top=2, bottom=8, size=(20, 10)):
    """Run lengths of a box, not compressed."""
    mask = np.zeros(size[::-1], np.uint8)
    mask[top:bottom, left:right] = 1
    flat = mask.T.ravel()
    ends = [0, *(np.flatnonzero(np.diff(flat)) + 1).tolist(), len(flat)]
    return {"size": [size[1], size[0]], "counts": np.diff(ends).tolist()}


def annotation(shape=(RING,), category_id=1, **more):
    shape = list(shape) if isinstance(shape, tuple) else shape
    return {"id": 1, "image_id": 1, "category_id": category_id, "iscrowd": 0, "segmentation": shape, **more}


def make(root, *annotations, name="annotations.json", image="a.png", place=None, **changes):
    """A COCO file of an image of 20 x 10 pixels."""
    content = {
        "images": [{"id": 1, "file_name": image, "width": 20, "height": 10}],
        "annotations": list(annotations),
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }
    for path in (root / name, root / (place or image)):
        path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 10)).save(root / (place or image))
    (root / name).write_text(json.dumps({**content, **changes}), "utf-8")
    return root


def categories(*names, first=1):
    return [{"id": i, "name": name} for i, name in enumerate(names, first)]


def read(root, **options):
    return coco.read(Tree(root), ImportOptions(**options))


def mask(annotations):
    return annotations.items[0].paint((20, 10)).ids


def test_roboflow(tmp_path):
    names = [{"id": 0, "name": "parts", "supercategory": "none"}]
    names += [{"id": i, "name": name, "supercategory": "parts"} for i, name in enumerate(("door", "hood"), 1)]
    for split in ("train", "valid"):
        image = f"car_jpg.rf.{split}.jpg"
        place = f"{split}/{image}"
        make(tmp_path, annotation(), name=f"{split}/_annotations.coco.json", image=image, place=place, categories=names)
    found = read(tmp_path)
    assert (found.classes, found.values) == (("door", "hood"), {"door": "1", "hood": "2"})
    assert [item.split for item in found.items] == ["train", "val"]
    assert found.notes == ("'parts' stands above other categories and has no annotation: it is no class",)


def test_a_category_above_others_that_is_annotated_is_a_class(tmp_path):
    names = [{"id": 1, "name": "car", "supercategory": "car"}, {"id": 2, "name": "van", "supercategory": "car"}]
    assert read(make(tmp_path / "a", annotation(), categories=names)).classes == ("car", "van")
    assert read(make(tmp_path / "b", annotation(category_id=2), categories=names)).classes == ("van",)
    names[1]["supercategory"] = "van"
    assert read(make(tmp_path / "c", annotation(category_id=2), categories=names)).classes == ("car", "van")


def test_cvat(tmp_path):
    crowd = annotation(runs(), iscrowd=1, attributes={"occluded": False})
    names = [{"id": 1, "name": "cat", "supercategory": ""}]
    root = make(
        tmp_path, crowd, name="annotations/instances_default.json", place="images/default/a.png", categories=names
    )
    found = read(root)
    assert [item.split for item in found.items] == [None]
    assert mask(found).sum() == 60


@pytest.mark.parametrize(
    "name", ["images\\0a1b-a.png", "images/0a1b-a.png", "/data/media/upload/3/0a1b-a.png", "C:\\x\\0a1b-a.png"]
)
def test_label_studio(name, tmp_path):
    root = make(tmp_path, annotation(category_id=0), name="result.json", image=name, place="images/0a1b-a.png",
                categories=categories("cat", first=0))  # fmt: skip
    found = read(root)
    assert [item.image for item in found.items] == [root / "images/0a1b-a.png"]
    assert found.values == {"cat": "0"}


@pytest.mark.parametrize(
    "shape",
    [(RING,), RING, runs(), {"size": [10, 20], "counts": "d16400000000000000000`1"}, (RING, [1, 1, 2, 2])],
    ids=["rings", "one ring", "numbers", "compressed", "and a line"],
)
def test_forms_of_a_segmentation_cover_the_same_box(shape, tmp_path):
    found = mask(read(make(tmp_path, annotation(shape))))
    assert found.sum() == 60
    assert found[2:8, 5:15].all()


def test_numbers_with_gaps_and_names_of_any_kind(tmp_path):
    names = [{"id": 90, "name": "a, b"}, {"id": 7, "name": "katze-ä"}, {"id": 0, "name": "_background_"}]
    found = read(make(tmp_path, annotation(category_id=90), categories=names))
    assert found.classes == ("katze-ä", "a, b")
    assert found.values == {"katze-ä": "7", "a, b": "90", "background": "0"}
    assert mask(found).max() == 2


def test_a_background_category_takes_out_of_what_lies_below_or_lies_below_it(tmp_path):
    both = annotation(), annotation((HOLE,), 2)
    root = make(tmp_path, *both, categories=categories("cat", "_background_"))
    assert [mask(read(root, background=answer)).sum() for answer in ("cut", "below")] == [60 - 8, 60]
    with pytest.raises(Undecided):
        mask(read(root))


@pytest.mark.parametrize(("crowd", "value"), [("class", 1), ("ignore", 255)])
def test_crowds(crowd, value, tmp_path):
    root = make(tmp_path, annotation(runs(), iscrowd=1), annotation((HOLE,), 2))
    found = mask(read(root, crowd=crowd, overlap="smaller"))
    assert set(np.unique(found)) == {0, 2, value}


def test_boxes_alone(tmp_path):
    """A box says that something is there: it is not background, and hides no object whose shape is known."""
    root = make(tmp_path, annotation((HOLE,), 2), annotation([], bbox=[5, 2, 10, 6]))
    found = read(root)
    assert found.left_out == {f"{BOXES}, such as annotation 1": 1}
    assert ((mask(found) == 255).sum(), (mask(found) == 2).sum()) == (60 - 8, 8)
    assert (mask(read(root, boxes="fill", overlap="smaller")) == 1).sum() == 60 - 8


def test_a_ring_inside_a_ring_is_asked_about_with_an_image_each(tmp_path):
    root = make(tmp_path / "s", annotation((RING, HOLE)))
    with pytest.raises(Ambiguous) as question:
        read(root)
    painted = {answer: preview.item.paint((20, 10)).ids.sum() for answer, preview in question.value.readings.items()}
    assert painted == {"holes": 52, "union": 60}
    assert mask(read(root, rings="holes")).sum() == 52


def test_an_image_of_another_scene_or_split_does_not_get_the_mask(tmp_path):
    assert read(make(tmp_path / "a", annotation(), image="one/1.png", place="two/1.png")).left_out == {
        "images that are not there, such as one/1.png": 1
    }
    root = make(tmp_path / "b", annotation(), name="valid/_annotations.coco.json", place="valid/a.png")
    make(root, annotation(), name="train/_annotations.coco.json", place="train/b.png")
    found = read(root)
    assert [(item.name, item.split) for item in found.items] == [("valid/a", "val")]
    assert found.left_out == {"images that are not there, such as a.png": 1}


def test_two_entries_of_one_image_are_refused(tmp_path):
    images = [{"id": i, "file_name": f"/home/{i}/a.png", "width": 20, "height": 10} for i in (1, 2)]
    with pytest.raises(
        UserError, match=r"1/a\.png \(id 1\) and .*2/a\.png \(id 2\) are both of the image a\.png"
    ) as told:
        read(make(tmp_path / "a", annotation(), images=images))
    assert "\n" not in str(told.value)
    make(tmp_path / "b", annotation(), name="one.json")
    with pytest.raises(UserError, match=r"one\.json and .*two\.json are both of the image a\.png"):
        read(make(tmp_path / "b", annotation(), name="two.json"))


def test_a_file_is_opened_once_to_know_what_it_is(tmp_path, monkeypatch):
    tree, opened = Tree(make(tmp_path, annotation())), list[str]()
    peek = tree.peek
    monkeypatch.setattr(tree, "peek", lambda path: opened.append(path.name) or peek(path))
    assert coco.lacks(tree) is None
    assert len(coco.read(tree, ImportOptions()).items) == 1
    assert opened == ["annotations.json"]


def test_an_image_without_annotations_and_one_that_is_not_there(tmp_path):
    images = [{"id": i, "file_name": f"{name}.png", "width": 20, "height": 10} for i, name in enumerate("abc", 1)]
    Image.new("RGB", (20, 10)).save(tmp_path / "b.png")
    root = make(tmp_path, annotation(), annotation(image_id=9), images=images)
    assert read(root).left_out == {
        "images that are not there, such as c.png": 1,
        "images without an annotation (--empty background keeps them), such as b.png": 1,
        "annotations of images that are not listed": 1,
    }
    assert [item.name for item in read(root, empty="background").items] == ["a", "b"]


def test_an_image_of_another_size_than_was_annotated_is_left_out(tmp_path):
    image = {"id": 1, "file_name": "a.png", "width": 30000, "height": 30000}
    other = {"id": 2, "file_name": "b.png", "width": 20, "height": 10}
    root = make(tmp_path / "s", annotation(), annotation(image_id=2), images=[image, other])
    Image.new("RGB", (20, 10)).save(root / "b.png")
    report = import_data(root, tmp_path / "own", ImportOptions(), val_share=0.2)
    (why,) = report.left_out
    assert "30000x30000 pixels were annotated, the image has 20x10" in why


DAMAGED = {
    "run lengths of another size": (annotation(runs(size=(21, 10))), "are of 21x10 pixels, the image 20x10"),
    "run lengths that end early": (annotation({"size": [10, 20], "counts": [2, 6]}), "cover 8 pixels"),
    "negative run lengths": (annotation({"size": [10, 20], "counts": [-2, 202]}), "other than numbers from 0"),
    "damaged characters": (annotation({"size": [10, 20], "counts": "~~~"}), "cover -1 pixels"),
    "run lengths of no size": (annotation({"counts": [200]}), "size is None"),
    "a size beyond all images": (annotation({"size": [10**9, 10**9], "counts": [10**18]}), "size is [1000000000"),
    "no counts": (annotation({"size": [10, 20]}), "counts are NoneType"),
    "no number": (annotation(([5, 2, float("nan"), 2, 15, 8],)), "expected polygons"),
    "infinity": (annotation(([5, 2, float("inf"), 2, 15, 8],)), "expected polygons"),
    "a number of 400 digits": (annotation(([5, 2, 10**400, 2, 15, 8],)), "expected polygons"),
    "an odd number of coordinates": (annotation(([5, 2, 15, 2, 15, 8, 5],)), "expected polygons"),
    "words": (annotation("everything"), "expected polygons"),
    "an unknown category": (annotation(category_id=3), "has the category 3, which is not listed"),
    "a list for a category": (annotation(category_id=[1]), "has the category [1], which is not listed"),
    "a list for an image": (annotation(image_id=[1]), "expected the id of its image"),
    "no object": ("annotation", "expected objects in 'annotations'"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_an_annotation_that_contradicts_itself_is_refused(name, tmp_path):
    given, told = DAMAGED[name]
    with pytest.raises(UserError, match=r"annotations\.json: ") as error:
        read(make(tmp_path, given))
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_an_image_of_boxes_alone_is_not_background(tmp_path):
    found = read(make(tmp_path, annotation([], bbox=[5, 2, 10, 6])))
    assert np.unique(mask(found)).tolist() == [0, 255]
    assert (mask(found) == 255).sum() == 60


def test_an_image_whose_objects_have_no_shape_is_not_background(tmp_path):
    found = read(make(tmp_path, annotation([])), empty="background")
    assert found.items == ()
    assert found.left_out["images whose annotations are all left out"] == 1


@pytest.mark.parametrize("box", [[1, 2, float("nan"), 4], [1, 2, 3], ["a", 1, 2, 3], "all", [None] * 4])
def test_a_damaged_box_is_refused(box, tmp_path):
    with pytest.raises(UserError, match="expected a box"):
        read(make(tmp_path, annotation([], bbox=box)), boxes="fill")


IMAGE = {"id": 1, "file_name": "a.png", "width": 20, "height": 10}
CHANGED = {
    "an image of 10**9 pixels a side": ({"images": [{**IMAGE, "width": 10**9}]}, "expected an image"),
    "two images of one id": ({"images": [IMAGE, IMAGE]}, "expected an image with its own id"),
    "an image whose id is a list": ({"images": [{**IMAGE, "id": [1]}]}, "expected an image with its own id"),
    "an image without a name": ({"images": [{**IMAGE, "file_name": None}]}, "expected an image"),
    "a category twice": ({"categories": categories("cat", "cat")}, "1 and 2 are both called 'cat'"),
    "an id twice": ({"categories": [{"id": 1, "name": "cat"}, {"id": 1, "name": "dog"}]}, "is 'cat' and 'dog'"),
    "a category without a name": ({"categories": [{"id": 1}]}, "a category with id and name"),
    "a category of an empty name": ({"categories": categories(" ")}, "a class has no name"),
    "a name that cannot be printed": ({"categories": categories("a\ud800")}, "cannot be printed"),
    "no category": ({"categories": []}, "at least one category"),
    "255 categories": ({"categories": categories(*map(str, range(255)))}, "at most 254 class names"),
    "no list": ({"images": {}}, "expected a list 'images'"),
}


@pytest.mark.parametrize("name", CHANGED)
def test_a_file_that_contradicts_itself_is_refused(name, tmp_path):
    changes, told = CHANGED[name]
    with pytest.raises(UserError, match="json") as error:
        read(make(tmp_path, annotation(), **changes))
    assert told in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("depth", [100, 100_000])
def test_a_file_that_is_nested_too_deeply_is_refused(depth, tmp_path):
    text = '{"images": [], "categories": [], "annotations": ' + "[" * depth + "]" * depth + "}"
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError, match=r"nested too deeply|in each other"):
        read(tmp_path)


def test_a_file_in_utf_16_is_recognised(tmp_path):
    root = make(tmp_path, annotation())
    text = (root / "annotations.json").read_text()
    (root / "annotations.json").write_text(text, "utf-16")
    assert coco.lacks(Tree(root)) is None
    assert read(root).classes == ("cat", "dog")


def test_a_folder_without_coco_files_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no \.json with images, annotations, categories"):
        read(tmp_path)
