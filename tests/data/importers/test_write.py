"""What an import writes: images, masks, names and counts, or nothing at all."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path

import mask_writers
import numpy as np
import pytest
import samples
from PIL import ExifTags, Image

from barm.data.importers import import_data
from barm.data.importers.annotations import Annotations, ImportOptions, Item, Painted, Region
from barm.data.importers.mask_scan import blank
from barm.data.importers.regions import painter, rectangle
from barm.data.importers.report import ImportReport
from barm.data.importers.write import Origin, Split, write_folder
from barm.data.index import checked
from barm.data.sources import open_source
from barm.errors import UserError

CLASSES = ("cat", "dog")


def photo(path: Path, size: tuple[int, int] = (40, 30), orientation: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Image.new("RGB", size, "teal").save(path, exif=exif)
    return path


def items(folder: Path, number: int = 6, split: str | None = None) -> tuple[Item, ...]:
    """Images with a cat on the left and a dog that covers a part of it."""
    regions = [Region(1, rectangle(0, 0, 20, 30)), Region(2, rectangle(10, 0, 30, 30))]
    paint = painter(regions, "later")
    return tuple(Item(f"i{k}", photo(folder / f"i{k}.jpg"), paint, split, (40, 30)) for k in range(number))


def write(
    annotations: Annotations, root: Path, options: ImportOptions | None = None, share: float = 0.3, link: bool = False
) -> ImportReport:
    return write_folder(annotations, root, options or ImportOptions(), Split(share), Origin("s", "f", {}), link=link)


def test_the_folder_is_a_data_set(tmp_path):
    report = write(Annotations(CLASSES, items(tmp_path / "photos")), tmp_path / "own")
    train, val = (checked(open_source("auto", tmp_path / "own", split)) for split in ("train", "val"))
    assert train.class_names == ("background", *CLASSES)
    assert {"train": len(train), "val": len(val)} == report.images
    assert sorted((*train.names, *val.names)) == [f"i{k}" for k in range(6)]
    ids = np.asarray(train[0].mask)
    np.testing.assert_array_equal(ids[0], [1] * 10 + [2] * 20 + [0] * 10)
    assert train.images[0].read_bytes() == (tmp_path / f"photos/{train.names[0]}.jpg").read_bytes()
    assert not list(tmp_path.glob(".own*"))


def test_everything_is_counted(tmp_path):
    made = write(Annotations(CLASSES, items(tmp_path / "photos", 2)), tmp_path / "own")
    cat, dog = made.classes
    assert (cat.objects, cat.images, cat.pixels) == (2, 2, 2 * 10 * 30)
    assert (dog.objects, dog.images, dog.pixels) == (2, 2, 2 * 20 * 30)
    assert made.background == 2 * 10 * 30
    assert made.contested == (2, 2 * 10 * 30)


def test_the_source_divides_its_images(tmp_path):
    parts = [item for split in ("train", "val", "test") for item in items(tmp_path / split, 2, split)]
    made = write(Annotations(CLASSES, tuple(parts)), tmp_path / "own")
    assert made.images == {"train": 2, "val": 2, "test": 2}
    assert [len(open_source("folder", tmp_path / "own", split)) for split in ("train", "val")] == [2, 2]
    assert (tmp_path / "own/masks/test/i1.png").is_file()


@pytest.mark.parametrize(("rest", "expected"), [("background", 0), ("ignore", 255)])
def test_some_classes_are_kept_in_the_order_that_is_asked_for(tmp_path, rest, expected):
    options = ImportOptions(classes=("dog",), rest=rest)
    write(Annotations(CLASSES, items(tmp_path / "photos")), tmp_path / "own", options)
    source = open_source("folder", tmp_path / "own", "train")
    assert source.class_names == ("background", "dog")
    assert np.asarray(source[0].mask)[0].tolist() == [expected] * 10 + [1] * 20 + [0] * 10


@pytest.mark.parametrize("alone", ["train", "val", "test"])
def test_a_split_alone_is_divided_anew(tmp_path, alone):
    made = write(Annotations(CLASSES, items(tmp_path / "photos", 6, alone)), tmp_path / "own", share=0.5)
    assert sum(made.images.values()) == 6
    other = "train" if alone == "val" else "val"
    assert made.notes == (
        f"the source has a {alone} split, but no {other} split: the images of {alone} are divided anew (--val)",
    )
    sizes = {split: len(checked(open_source("folder", tmp_path / "own", split))) for split in ("train", "val")}
    assert sizes == made.images
    assert min(sizes.values()) > 0


def test_images_for_tests_stay_apart_where_the_others_are_divided_anew(tmp_path):
    parts = (*items(tmp_path / "a", 4, "train"), *items(tmp_path / "b", 2, "test"))
    made = write(Annotations(CLASSES, parts), tmp_path / "own", share=0.5)
    assert made.images["test"] == 2
    assert sum(len(open_source("folder", tmp_path / "own", split)) for split in ("train", "val")) == 4
    assert (tmp_path / "own/images/test/i1.jpg").is_file()


@pytest.mark.parametrize(("number", "share"), [(1, 0.3), (3, 0)])
def test_an_import_without_images_for_validation_is_warned_about(tmp_path, number, share):
    made = write(Annotations(CLASSES, items(tmp_path / "photos", number)), tmp_path / "own", share=share)
    assert made.images == {"train": number, "val": 0}
    assert [line for line in made.warnings if "the val split is empty, and a training needs both" in line]


def test_lists_of_names_that_end_like_files_are_read_back(tmp_path):
    parts = [Item(f"i{k}.png", photo(tmp_path / f"i{k}.png.jpg"), blank) for k in range(4)]
    write(Annotations(CLASSES, (*parts, *items(tmp_path, 2))), tmp_path / "own", share=0.5)
    train, val = (checked(open_source("folder", tmp_path / "own", split)) for split in ("train", "val"))
    assert sorted((*train.names, *val.names)) == ["i0", "i0.png", "i1", "i1.png", "i2.png", "i3.png"]


def test_a_class_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match="no class 'cow': the source has cat, dog"):
        write(Annotations(CLASSES, items(tmp_path)), tmp_path / "own", ImportOptions(classes=("cow",)))
    assert not (tmp_path / "own").exists()


def test_masks_turn_with_their_photographs(tmp_path):
    """EXIF shows a stored 40x30 image as 30x40; tools draw on the one or on the other."""
    paint = painter([Region(1, rectangle(0, 0, 40, 10))], "later")
    drawn = {"stored": (40, 30), "upright": (30, 40)}
    for name, size in drawn.items():
        item = Item("a", photo(tmp_path / name / "a.jpg", orientation=6), paint, None, size)
        made = write(Annotations(("top",), (item,)), tmp_path / f"own-{name}")
        assert bool(made.notes) == (name == "stored")
    stored, upright = (np.asarray(Image.open(tmp_path / f"own-{name}/masks/a.png")) for name in drawn)
    assert stored.shape == upright.shape == (40, 30)
    assert stored[:, -10:].all()  # what is the top of the stored image is on the right of the upright one
    assert not stored[:, :-10].any()
    assert upright[:10].all()
    assert not upright[10:].any()


def test_images_that_cannot_be_used_are_left_out_and_counted(tmp_path):
    good = items(tmp_path / "photos", 3)
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    broken = Item("broken", tmp_path / "broken.jpg", good[0].paint)
    other = Item("other", photo(tmp_path / "other.jpg", (64, 64)), good[0].paint, size=(40, 30))
    made = write(Annotations(CLASSES, (*good, broken, other)), tmp_path / "own")
    broken, other = made.left_out
    assert re.match("images that cannot be used, such as .*broken.jpg: it cannot be read as an image", broken)
    assert re.match(
        "images without a mask that fits, such as .*: 40x30 pixels were annotated, the image has 64x64", other
    )
    assert {path.stem for path in (tmp_path / "own/images").iterdir()} == {"i0", "i1", "i2"}


def test_nothing_is_left_of_an_import_that_fails(tmp_path):
    def fail(_: tuple[int, int]) -> Painted:
        raise KeyboardInterrupt

    item = Item("a", photo(tmp_path / "a.jpg"), fail)
    with pytest.raises(KeyboardInterrupt):
        write(Annotations(CLASSES, (item,)), tmp_path / "own")
    assert [path.name for path in tmp_path.iterdir()] == ["a.jpg"]


def test_what_is_there_is_not_touched(tmp_path):
    (tmp_path / "own").mkdir()
    (tmp_path / "own/precious").touch()
    with pytest.raises(UserError, match="is there already: choose a new folder"):
        write(Annotations(CLASSES, items(tmp_path / "photos")), tmp_path / "own")
    assert [path.name for path in (tmp_path / "own").iterdir()] == ["precious"]


@pytest.mark.parametrize("place", ["sub/..", "."])
def test_an_empty_folder_is_filled_under_any_of_its_names(tmp_path, cli, monkeypatch, place):
    export = coco(tmp_path / "export")
    (tmp_path / "new").mkdir()
    monkeypatch.chdir(tmp_path / "new")
    assert cli("data", "import", export, place)[0] == 0
    assert {"images", "masks", "import.json"} <= {path.name for path in (tmp_path / "new").iterdir()}
    assert not list(tmp_path.rglob("*.tmp"))
    status, _, err = cli("data", "import", export, place)
    assert (status, err.count("\n")) == (2, 1)
    assert "is there already: choose a new folder" in err


def test_the_folder_has_its_report_when_it_appears(tmp_path, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise OSError("no space left")

    export = coco(tmp_path / "export")
    monkeypatch.setattr(json, "dumps", fail)
    with pytest.raises(OSError, match="no space"):
        import_data(export, tmp_path / "own")
    assert not (tmp_path / "own").exists()


def test_two_images_of_one_name_are_refused(tmp_path):
    one = items(tmp_path / "photos", 1)[0]
    twin = Item("I0", photo(tmp_path / "other/I0.png"), one.paint)  # the same file where capitals do not count
    with pytest.raises(UserError, match="two images are called"):
        write(Annotations(CLASSES, (one, twin)), tmp_path / "own")


def test_an_image_outside_the_splits_is_refused(tmp_path):
    parts = (*items(tmp_path / "a", 1, "train"), *items(tmp_path / "b", 1))
    with pytest.raises(UserError, match=r"belongs to no split, but other images do"):
        write(Annotations(CLASSES, parts), tmp_path / "own")


def test_names_that_a_list_cannot_hold_go_into_a_table(tmp_path):
    names = ("a # b", "dog")
    write(Annotations(names, items(tmp_path / "photos")), tmp_path / "own")
    assert not (tmp_path / "own/classes.txt").exists()
    assert checked(open_source("folder", tmp_path / "own", "train")).class_names == ("background", *names)


def test_what_stood_for_the_classes_is_kept(tmp_path):
    annotations = Annotations(CLASSES, items(tmp_path / "photos"), values={"cat": "17", "dog": "18", "cow": "21"})
    write(annotations, tmp_path / "own")
    text = (tmp_path / "own/source_classes.toml").read_text()
    assert text == '[values]\n0 = "background"\n17 = "cat"\n18 = "dog"\n'


def test_links_share_the_bytes_of_the_images(tmp_path):
    write(Annotations(CLASSES, items(tmp_path / "photos", 2)), tmp_path / "own", link=True)
    assert (tmp_path / "own/images/i0.jpg").samefile(tmp_path / "photos/i0.jpg")


def test_images_that_are_no_files_are_written(tmp_path):
    content = photo(tmp_path / "a.webp").read_bytes()
    item = Item("a", lambda: content, partial(painter([Region(1, rectangle(0, 0, 9, 9))], "later")))
    write(Annotations(("cat",), (item,)), tmp_path / "own")
    assert (tmp_path / "own/images/a.webp").read_bytes() == content


def coco(folder: Path, **more: object) -> Path:
    """A COCO file of two images with one square each."""
    images = [{"id": k, "file_name": f"i{k}.jpg", "width": 40, "height": 30} for k in range(2)]
    square = [4, 4, 24, 4, 24, 24, 4, 24]
    objects = [{"id": k, "image_id": k, "category_id": 7, "segmentation": [square]} for k in range(2)]
    for k in range(2):
        photo(folder / f"i{k}.jpg")
    content = {"images": images, "annotations": objects, "categories": [{"id": 7, "name": "cat"}], **more}
    (folder / "result.json").write_text(json.dumps(content))
    return folder


def test_the_command_says_what_it_did(tmp_path, cli):
    status, out, err = cli("data", "import", coco(tmp_path / "export"), "own", "--val", "0.5")
    assert (status, err) == (0, "")
    assert "own, read as coco" in out
    assert "1 train, 1 val images" in out
    assert json.loads((tmp_path / "own/import.json").read_text())["classes"][0]["objects"] == 2
    status, out, _ = cli("data", "import", tmp_path / "export", "more", "--json")
    assert json.loads(out)["classes"] == [{"name": "cat", "objects": 2, "images": 2, "pixels": 800}]


def test_a_ring_in_a_ring_is_asked_about_with_an_image_of_each_answer(tmp_path, cli):
    rings = [[0, 0, 30, 0, 30, 30, 0, 30], [10, 10, 20, 10, 20, 20, 10, 20]]
    objects = [{"id": 1, "image_id": 0, "category_id": 7, "segmentation": rings}]
    export = coco(tmp_path / "export", annotations=objects)
    status, _, err = cli("data", "import", export, "own")
    assert status == 2
    assert err.count("\n") == 1
    assert "give --rings holes (own-readings/rings-holes.png) or --rings union (own-readings/rings-union.png)" in err
    assert not (tmp_path / "own").exists()
    holes, union = (Image.open(tmp_path / f"own-readings/rings-{answer}.png") for answer in ("holes", "union"))
    assert holes.getpixel((5, 5)) == union.getpixel((5, 5)) == union.getpixel((15, 15)) != holes.getpixel((15, 15))
    for answer, pixels in (("holes", 800), ("union", 900)):
        assert cli("data", "import", export, answer, "--rings", answer)[0] == 0
        assert json.loads((tmp_path / answer / "import.json").read_text())["classes"][0]["pixels"] == pixels


def test_a_new_folder_in_the_source_is_refused(tmp_path, cli, monkeypatch):
    """Its images, and those of readings beside it, would be a part of the next import."""
    monkeypatch.chdir(coco(tmp_path / "export"))
    status, _, err = cli("data", "import", ".", "own")
    assert (status, err.count("\n")) == (2, 1)
    assert "own lies in ., which is imported: choose a new folder outside of it" in err
    assert sorted(path.name for path in Path().iterdir()) == ["i0.jpg", "i1.jpg", "result.json"]


def test_the_images_of_readings_are_not_imported(tmp_path):
    drawn = photo(tmp_path / "export/own-readings/first-0.png")
    mask_writers.write_indexed(tmp_path / "export", samples.samples())
    import_data(tmp_path / "export", tmp_path / "own", ImportOptions(empty="background"))
    assert drawn.is_file()
    assert not list((tmp_path / "own").rglob("first-0*"))


def test_a_folder_of_no_format_names_those_that_were_tried(tmp_path, cli):
    photo(tmp_path / "photos/a.jpg")
    status, _, err = cli("data", "import", tmp_path / "photos", "own")
    assert (status, err.count("\n")) == (2, 1)
    assert "is of no format that can be imported. COCO JSON: no .json with images, annotations, categories" in err
