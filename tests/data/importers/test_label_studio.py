"""Label Studio: kinds of regions, several annotations, names of images, and damaged files."""

from __future__ import annotations

import base64
import io
import json

import numpy as np
import pytest
import writers
from PIL import Image

from barm.data.importers import import_data, label_studio
from barm.data.importers.annotations import Ambiguous, ImportOptions
from barm.data.importers.source_tree import Tree
from barm.errors import UserError

SIZE = (40, 20)
RING = np.array([(10, 4), (30, 4), (30, 16), (10, 16)], float)
BOX = {"x": 25, "y": 20, "width": 50, "height": 60}


def region(label="cat", rings=(RING,), **changes):
    return writers.label_studio_region(label, rings, SIZE, **changes)


def shape(kind, **value):
    """A region of another kind than a polygon."""
    result = {**region(), "type": kind, "value": {**value, kind: ["cat"]}}
    return {**result, "value": value} if kind == "choices" else result


def annotation(*results, **more):
    return {"result": list(results), "was_cancelled": False, **more}


def task(*annotations, image="/data/upload/1/0a1b2c3d-a.png", **more):
    return {"id": 12, "data": {"image": image}, "annotations": list(annotations), "predictions": [], **more}


def make(root, *tasks, image="a.png"):
    root.mkdir(parents=True, exist_ok=True)
    (root / image).parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", SIZE).save(root / image)
    (root / "project.json").write_text(json.dumps(list(tasks)))
    return root


def read(root, **options):
    return label_studio.read(Tree(root), ImportOptions(**options))


def mask(annotations):
    return annotations.items[0].paint(SIZE).ids


@pytest.mark.parametrize(
    "given",
    [
        region(),
        region(rings=(RING, np.zeros((3, 2)))),
        shape("rectanglelabels", **BOX),
        shape("rectanglelabels", x=75, y=20, width=30, height=100, rotation=90),
        {**shape("rectanglelabels", **BOX), "original_width": None, "original_height": None},
    ],
)
def test_kinds_of_regions_cover_the_same_box(given, tmp_path):
    found = read(make(tmp_path, task(annotation(given))))
    expected = np.zeros(SIZE[::-1], np.uint8)
    expected[4:16, 10:30] = 1
    assert found.items[0].size in (SIZE, None)
    assert (mask(found) == expected).all()


def test_an_ellipse_is_turned_around_its_middle(tmp_path):
    flat = {"x": 50, "y": 50, "radiusX": 20, "radiusY": 20}  # 8 and 4 pixels
    lying = mask(read(make(tmp_path / "a", task(annotation(shape("ellipselabels", **flat))))))
    standing = mask(read(make(tmp_path / "b", task(annotation(shape("ellipselabels", **flat, rotation=90))))))
    assert lying.sum() == pytest.approx(np.pi * 32, abs=8)
    assert (np.ptp(np.nonzero(lying), 1) > (6, 14)).all()
    assert np.ptp(np.nonzero(standing)[0]) > 2 * np.ptp(np.nonzero(lying)[0]) - 3


def test_labels_of_another_control_belong_to_the_region_of_the_same_id(tmp_path):
    place = {**region(), "id": "x1", "type": "rectangle", "value": BOX}
    named = {**region(), "id": "x1", "type": "labels", "value": {**BOX, "labels": ["dog"]}}
    found = read(make(tmp_path, task(annotation(place, named))))
    assert found.classes == ("dog",)
    assert found.items[0].paint(SIZE).objects == {1: 1}


def test_what_is_no_region_is_counted_and_what_is_skipped_does_not_count(tmp_path):
    point = shape("keypointlabels", x=1, y=1, width=0.3)
    given = annotation(region(), point, shape("choices", choices=["good"]), region(closed=False), {"type": "relation"})
    found = read(make(tmp_path, task(annotation(region("dog"), was_cancelled=True), given)))
    assert found.classes == ("cat",)
    assert found.left_out == {
        "annotations that were skipped": 1,
        "annotations without an area (keypointlabels)": 1,
        "annotations without an area (choices)": 1,
        "polygons that are not finished": 1,
    }


def test_an_image_of_points_alone_is_not_background(tmp_path):
    point = shape("keypointlabels", x=1, y=1, width=0.3)
    found = read(make(tmp_path, task(annotation(point))), empty="background")
    assert found.items == ()
    assert found.left_out["images whose annotations are all left out"] == 1


def test_several_annotations_are_asked_about_with_an_image_each(tmp_path):
    late, early = annotation(region("dog"), created_at="2024-02"), annotation(region("cat"), created_at="2023-02")
    root = make(tmp_path / "s", task(late, early))
    with pytest.raises(UserError, match="task 12 has 2 annotations: give --annotator first") as error:
        import_data(root, tmp_path / "own", ImportOptions(), val_share=0.2)
    assert "\n" not in str(error.value)
    shown = [Image.open(tmp_path / f"own-readings/annotator-{one}.png") for one in ("first", "last")]
    assert shown[0].tobytes() != shown[1].tobytes()
    assert not (tmp_path / "own").exists()
    assert mask(read(root, annotator="first")).max() == 1
    assert mask(read(root, annotator="last")).max() == 2


def test_the_single_ground_truth_counts(tmp_path):
    true, other = annotation(region("cat"), ground_truth=True), annotation(region("dog"), ground_truth=False)
    assert read(make(tmp_path / "one", task(other, true))).classes == ("cat",)
    with pytest.raises(Ambiguous):
        read(make(tmp_path / "two", task(true, true)))


def test_an_annotation_without_regions_is_background_and_none_is_not(tmp_path):
    assert not mask(read(make(tmp_path / "a", task(annotation()), task(image="gone.png")))).any()
    assert read(make(tmp_path / "b", task())).items == ()
    assert len(read(make(tmp_path / "c", task()), empty="background").items) == 1
    assert read(make(tmp_path / "d", task(predictions=[{"result": []}]))).left_out == {
        "images with predictions alone": 1
    }


@pytest.mark.parametrize(
    ("address", "image"),
    [
        ("/data/upload/1/0a1b2c3d-a.png", "a.png"),
        ("/data/upload/1/0a1b2c3d-a.png", "0a1b2c3d-a.png"),
        ("/data/local-files/?d=set%2Fone/a.png", "one/a.png"),
        ("s3://bucket/deep/a.png", "deep/a.png"),
        ("https://example.com/a.png?sign=1%2F2", "a.png"),
        ("C:\\data\\a.png", "a.png"),
    ],
)
def test_images_are_found_by_the_address_of_the_task(address, image, tmp_path):
    root = make(tmp_path, task(annotation(region()), image=address), image=image)
    assert [item.image for item in read(root).items] == [root / image]


def test_an_image_may_be_embedded_in_its_address(tmp_path):
    file = io.BytesIO()
    Image.new("RGB", SIZE, (1, 2, 3)).save(file, "PNG")
    text = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    root = make(tmp_path / "s", task(annotation(region()), image=text))
    import_data(root, tmp_path / "own", ImportOptions(), val_share=0.2)
    assert Image.open(tmp_path / "own/images/project_12.png").getpixel((0, 0)) == (1, 2, 3)


def test_a_task_of_several_images_is_left_out_unless_a_source_names_one(tmp_path):
    both = {"one": "a.png", "two": "b.png"}
    root = make(tmp_path / "a", {**task(annotation(region())), "data": both})
    assert read(root).left_out == {"tasks of several images": 1}
    named = {**region(), "source": "$one"}
    assert len(read(make(tmp_path / "b", {**task(annotation(named)), "data": both})).items) == 1


def test_the_short_export_is_read(tmp_path):
    value = {**region()["value"], "original_width": 40, "original_height": 20}
    record = {"image": "a.png", "id": 3, "label": [value], "annotator": 1, "annotation_id": 5, "lead_time": 1.5}
    root = make(tmp_path, record)
    assert label_studio.lacks(Tree(root)) is None
    assert mask(read(root)).sum() == 240
    with pytest.raises(Ambiguous, match="task 3 has 2 annotations"):
        read(make(tmp_path, record, {**record, "annotation_id": 6}))


def test_images_of_strokes_need_the_json_file(tmp_path):
    name = "task-12-annotation-7-by-1-tag-Airplane-0.png"
    Image.new("L", SIZE).save(tmp_path / name)
    assert label_studio.lacks(Tree(tmp_path)) is None
    with pytest.raises(UserError, match=r"does not say which image.*JSON export") as error:
        read(tmp_path)
    assert "\n" not in str(error.value)
    found = read(make(tmp_path, task(annotation(region()))))
    assert found.notes == ()
    assert found.left_out == {"files of strokes whose annotation does not count or is not in the JSON file": 1}


@pytest.mark.parametrize("short", [False, True])
def test_images_of_strokes_take_the_place_of_the_strokes_in_the_json_file(short, tmp_path):
    drawn = region(rings=(RING, RING[:3])), region("dog", rings=(RING / 2, RING[:3]))
    given = task(annotation(*drawn, id=7))
    if short:
        values = [{**each["value"], "original_width": 40, "original_height": 20} for each in drawn]
        given = {"image": "a.png", "id": 12, "annotation_id": 7, "label": values}
    root = make(tmp_path, given)
    opacity = np.zeros(SIZE[::-1], np.uint8)
    opacity[:3, :5], opacity[5:, :5] = 255, 90
    Image.fromarray(opacity).save(root / "task-12-annotation-7-by-me@host.org-label-cat-0.png")
    Image.fromarray(opacity).save(root / "task-12-annotation-7-by-1-label-bird-0.png")
    Image.fromarray(opacity.T.copy()).save(root / "task-12-annotation-7-by-1-label-dog-0.png")
    with pytest.raises(UserError, match="its stroke is of 20x40 pixels, not 40x20"):
        mask(read(root))
    (root / "task-12-annotation-7-by-1-label-dog-0.png").unlink()
    found = read(root, overlap="earlier")
    painted = found.items[0].paint(SIZE)
    assert found.classes == ("bird", "cat", "dog")
    assert painted.objects == {1: 1, 2: 1, 3: 1}
    assert (painted.ids == 2).sum() == 15
    assert found.notes == ("2 brush strokes were read from PNG files",)


def test_two_tasks_of_one_image_are_refused(tmp_path):
    tasks = task(annotation(region())), {**task(annotation(region("dog"))), "id": 13}
    with pytest.raises(UserError, match=r"task 12 and .*task 13 are both of the image .*a\.png"):
        read(make(tmp_path, *tasks))


def test_an_image_of_another_folder_does_not_get_the_regions(tmp_path):
    root = make(tmp_path, task(annotation(region()), image="/data/one/b.png"), image="one/a.png")
    (root / "two").mkdir()
    Image.new("RGB", SIZE).save(root / "two/b.png")
    assert read(root).left_out == {"images that are not there": 1}


@pytest.mark.parametrize("number", ["x/../../../home/a", "..", "a\nb", None, "C:\\x", "x" * 300])
def test_a_task_is_named_by_its_position_where_its_id_is_no_name(number, tmp_path):
    file = io.BytesIO()
    Image.new("RGB", SIZE).save(file, "PNG")
    text = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    root = make(tmp_path, {**task(annotation(region()), image=text), "id": number})
    (root / "project.json").rename(root / "my.pro ject.json")
    assert [item.name for item in read(root).items] == ["my_pro_ject_task1"]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (region(points=[[1, float("nan")], [2, 2], [3, 1]]), "in percent"),
        (region(points=[1, 2, 3]), "in percent"),
        (region(points=[[10**400, 1], [2, 2], [3, 1]]), "in percent"),
        (shape("rectanglelabels", x="a", y=1, width=2, height=3), "in percent"),
        (shape("rectanglelabels", x=1, y=1, width=2, height=3, rotation=[1]), "in percent"),
        (region(polygonlabels=["cat", "dog"]), "a region is cat and dog"),
        (region(polygonlabels=[{}]), "names of labels"),
        ({**region(), "original_width": 10**9}, "original_width and original_height"),
        (region(rings=(RING, RING[:3]), rle=[1, 2, 3]), "ends early: export it anew"),
        ({**region(rings=(RING, RING[:3])), "original_width": 41}, "values, but 41x20"),
        ({**region(rings=(RING, RING[:3])), "original_width": None, "original_height": None}, "a brush needs"),
    ],
)
def test_a_region_that_is_damaged_is_refused(given, told, tmp_path):
    with pytest.raises(UserError, match=r"project\.json: task 12: ") as error:
        read(make(tmp_path, task(annotation(given))))
    assert told in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text", ['[{"annotations": [3], "data": {}}]', '[{"annotations": 3, "data": {}}]', '[3, "annotations", "data"]']
)
def test_a_file_of_another_shape_is_refused(text, tmp_path):
    (tmp_path / "project.json").write_text(text)
    with pytest.raises(UserError, match=r"project\.json: .*expected"):
        read(tmp_path)


def test_a_region_on_a_turned_image_or_without_a_label_is_left_out(tmp_path):
    found = read(
        make(tmp_path, task(annotation({**region(), "image_rotation": 90}, region(polygonlabels=[]), region())))
    )
    assert found.left_out == {
        "regions on an image that was turned in Label Studio": 1,
        "regions without a label": 1,
    }
