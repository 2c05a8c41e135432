"""Data sets of Hugging Face: columns, names, the value 0, saved folders, and damaged files. They need pyarrow."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import samples
import writers
from PIL import Image

from barm.data.importers import huggingface, import_data
from barm.data.importers.annotations import Ambiguous, ImportOptions
from barm.data.importers.source_tree import Tree
from barm.errors import UserError

NAMES, LIST = ("wall", "sky"), ("background", "sky")
WEATHER = {"weather": {"names": ["sunny", "rainy"], "_type": "ClassLabel"}}


def row(*values, image="image", label="label", path=None):
    """An image of 20 x 16 pixels and a mask of columns of these values."""
    mask = Image.fromarray(np.resize(np.array(values, np.uint8), (16, 20)))
    return {image: writers.embedded(Image.new("RGB", (20, 16)), path), label: writers.embedded(mask, None)}


def make(root, *rows, names=NAMES, features=None, name="data/train-00000-of-00001.parquet"):
    writers.save_rows(root / name, rows, features or {})
    if names:
        (root / "id2label.json").write_text(json.dumps(dict(enumerate(names))))
    return root


def read(root, **options):
    return huggingface.read(Tree(root), ImportOptions(**options))


def first(annotations, i=0):
    return annotations.items[i].paint((20, 16)).ids[0, :4].tolist()


def test_masks_come_out_to_the_pixel(tmp_path):
    drawn = samples.samples(holes=True, number=3)
    writers.write_huggingface(tmp_path / "s", drawn)
    report = import_data(tmp_path / "s", tmp_path / "own", ImportOptions(), val_share=0.5)
    assert dict(report.images) == {"train": 1, "val": 2}
    for i, (image, objects) in enumerate(drawn):
        samples.compare(samples.imported(tmp_path / "own", i), objects)
        (written,) = (tmp_path / "own/images").glob(f"*/image{i}.png")
        assert Image.open(written).tobytes() == image.tobytes()


@pytest.mark.parametrize(("answer", "ids"), [("0", [1, 2, 255, 1]), ("1", [0, 1, 255, 0])])
def test_the_first_name_is_0_or_1(answer, ids, tmp_path):
    root = make(tmp_path, row(0, 1, 255, 0))
    assert first(read(root, first=answer)) == ids
    with pytest.raises(Ambiguous, match="'wall' may be the value 0") as question:
        read(root)
    assert question.value.flag == "--first"
    assert list(question.value.readings) == ["0", "1"]


def test_a_value_beyond_the_names_decides_what_0_is(tmp_path):
    found = read(make(tmp_path, row(0, 2)))
    assert first(found) == [0, 2, 0, 2]
    assert "masks hold 2, so that the names are those of 1 to 2" in found.notes[0]
    with pytest.raises(UserError, match="--first 0"):
        read(tmp_path, first="0")


def test_a_first_name_of_the_background_decides_it(tmp_path):
    found = read(make(tmp_path, row(0, 1), names=LIST))
    assert (found.classes, found.values) == (("sky",), {"background": "0", "sky": "1"})
    assert first(found) == [0, 1, 0, 1]


def test_names_in_a_file_come_first_and_given_ones_last(tmp_path):
    root = make(tmp_path, row(0, 1), names=())
    assert read(root, classes=("cat", "dog")).classes == ("cat", "dog")
    with pytest.raises(UserError, match=r"no names of the values in 'label': add id2label\.json"):
        read(root)
    (root / "id2label.json").write_text('{"0": "background", "1": "sky, blue"}')
    assert read(root).classes == ("sky, blue",)
    (root / "id2label.json").write_text('{"1": "sky"}')
    with pytest.raises(UserError, match="does not name each value from 0"):
        read(root)


def test_names_of_another_column_do_not_name_the_masks(tmp_path):
    with pytest.raises(UserError, match=r"in 'label' \('weather' has names, which are not said to be the masks'\)"):
        read(make(tmp_path / "a", row(0, 1), names=(), features=WEATHER))
    assert read(make(tmp_path / "b", row(0, 1), features=WEATHER), first="0").classes == NAMES
    own = {"label": {"_type": "Image", "classes": {"names": list(LIST), "_type": "ClassLabel"}}}
    assert read(make(tmp_path / "c", row(0, 1), names=(), features=WEATHER | own)).classes == ("sky",)


def test_two_lists_of_names_are_refused(tmp_path):
    root = make(tmp_path, row(0, 1))
    (root / "data/id2label.json").write_text('{"0": "background", "1": "door"}')
    with pytest.raises(UserError, match=r"has data/id2label\.json and id2label\.json: keep the one") as error:
        read(root)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("label", ["label", "segmentation_mask", "annotation", "gt", "semantic_seg"])
def test_the_column_of_masks_is_known_by_its_name(label, tmp_path):
    assert first(read(make(tmp_path, row(0, 1, label=label), names=LIST))) == [0, 1, 0, 1]


def test_columns_of_other_names_have_to_be_named(tmp_path):
    root = make(tmp_path, row(0, 1, image="after", label="before"), names=LIST)
    with pytest.raises(UserError, match="has the image columns after, before: name those"):
        read(root)
    assert first(read(root, label_column="before")) == [0, 1, 0, 1]


def test_a_column_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match="--image-column names 'photo'"):
        read(make(tmp_path, row(0, 1)), image_column="photo")


def test_rows_are_named_by_their_files_or_by_numbers(tmp_path):
    paths = ["x/a.jpg", "b.jpg", "c.jpg"]
    found = read(make(tmp_path / "a", *(row(0, i % 2, path=p) for i, p in enumerate(paths)), names=LIST))
    assert [item.name for item in found.items] == ["a", "b", "c"]
    assert [first(found, i)[1] for i in range(2)] == [0, 1]
    twice = read(make(tmp_path / "b", row(0, path="a.jpg"), row(1, path="A.jpg"), row(0), names=LIST))
    assert [item.name for item in twice.items] == ["000000", "000001", "000002"]


def test_a_later_import_reads_the_files_anew(tmp_path):
    make(tmp_path, row(0, 1), names=LIST)
    assert first(read(tmp_path)) == [0, 1, 0, 1]
    make(tmp_path, row(1, 0), names=LIST)
    assert first(read(tmp_path)) == [1, 0, 1, 0]


def test_a_single_split_divides_nothing(tmp_path):
    assert read(make(tmp_path, row(0, 1), names=LIST)).items[0].split is None
    make(tmp_path, row(0, 1), names=LIST, name="data/validation-00000-of-00001.parquet")
    assert [item.split for item in read(tmp_path).items] == ["train", "val"]


def test_a_folder_of_save_to_disk(tmp_path):
    for split in ("train", "validation"):
        folder = make(tmp_path, row(0, 1, path=f"{split}.png"), name=f"{split}/data-00000-of-00001.arrow") / split
        make(tmp_path, row(0, 9), name=f"{split}/cache-1.arrow")
        (folder / "state.json").write_text('{"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}')
        features = {name: {"_type": "Image"} for name in ("image", "label")}
        (folder / "dataset_info.json").write_text(json.dumps({"features": features}))
    found = read(tmp_path, first="0")
    assert [(item.name, item.split) for item in found.items] == [("train", "train"), ("validation", "val")]
    assert first(found, 1) == [1, 2, 1, 2]


def test_several_configurations_are_refused(tmp_path):
    make(tmp_path, row(0, 1), name="full/train/0000.parquet")
    make(tmp_path, row(0, 1), name="small/train/0000.parquet")
    with pytest.raises(UserError, match=r"several configurations \(full, small\)"):
        read(tmp_path)


def test_rows_that_cannot_be_used_are_counted(tmp_path):
    good, bad, gone = row(0, 1), row(0, 1), row(0, 1)
    bad["label"]["bytes"], gone["label"] = b"no image", {"bytes": None, "path": "/somewhere/m.png"}
    found = read(make(tmp_path, good, bad, gone, names=LIST))
    assert (len(found.items), found.left_out) == (1, {"images whose mask cannot be read": 2})


@pytest.mark.parametrize(
    ("given", "told"),
    [(row(0, 7), "row 0: its mask holds 7, but there are 2 names"), (None, "row 0: a mask holds one")],
)
def test_a_mask_that_does_not_fit_is_refused(given, told, tmp_path):
    given = given or {**row(0), "label": writers.embedded(Image.new("RGB", (20, 16)), None)}
    with pytest.raises(UserError) as error:
        read(make(tmp_path, given))
    assert told in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["train.parquet", "data-00000-of-00001.arrow"])
@pytest.mark.parametrize("content", [b"", b"PAR1 no table PAR1", b"\xff\xff\xff\xff\x10\0\0\0" * 9])
def test_a_damaged_file_is_refused(content, name, tmp_path):
    (tmp_path / name).write_bytes(content)
    (tmp_path / "dataset_info.json").write_text("{}")
    with pytest.raises(UserError, match="cannot be read") as error:
        read(tmp_path)
    assert "\n" not in str(error.value)


def test_a_table_without_images_is_refused(tmp_path):
    from pyarrow import parquet, table

    parquet.write_table(table({"a": [1]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match="does not say which columns are images"):
        read(tmp_path)


def test_without_pyarrow_one_line_says_what_to_install(tmp_path, monkeypatch):
    make(tmp_path, row(0, 1))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"pip install 'barm-seg\[hf\]'"):
        read(tmp_path)
