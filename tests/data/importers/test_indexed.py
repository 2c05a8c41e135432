"""Masks of numbers, hostile and strange ones."""

from __future__ import annotations

import numpy as np
import pytest
from mask_writers import (
    COLOURS,
    entries,
    ids_of,
    imported,
    in_colour,
    masks,
    reasons,
    samples,
    save,
    with_palette,
    write_indexed,
)
from PIL import Image

from barm.errors import UserError


@pytest.fixture
def source(tmp_path):
    write_indexed(tmp_path / "in", samples())
    return tmp_path / "in"


@pytest.fixture
def shuffled(source):
    """Masks whose palettes number the colours anew in each file, as image programs save them."""
    colours = list(COLOURS.values())
    for i, sample in enumerate(entries()):
        order = [0, *np.roll([1, 2, 3], i).tolist()]
        ids = np.argsort(order)[ids_of(sample)]
        save(with_palette(ids, [colours[k] for k in order]), source / "labels" / f"{sample.name}.png")
    return source


def test_palettes_that_differ_are_a_question_with_an_image_for_each_answer(shuffled, tmp_path):
    with pytest.raises(UserError, match=r"palette's entry 1 is .*: give --values index .* or --values colour"):
        imported(shuffled)
    shown = sorted(file.name for file in (tmp_path / "out-readings").iterdir())
    assert shown == ["values-colour.png", "values-index.png"]
    index, colour = (np.asarray(Image.open(tmp_path / "out-readings" / name)) for name in reversed(shown))
    assert not np.array_equal(index, colour)
    assert not (tmp_path / "out").exists()


def test_the_number_counts(shuffled):
    imported(shuffled, values="index")
    found = masks(shuffled)["image1"]
    assert np.array_equal(found > 0, ids_of(entries()[1]) > 0)
    assert not np.array_equal(found, ids_of(entries()[1]))


def test_the_colour_counts(shuffled):
    with pytest.raises(UserError, match=r"nothing names the masks' colours \(#000000"):
        imported(shuffled, values="colour")
    lines = (f"{name},{r},{g},{b}\n" for name, (r, g, b) in COLOURS.items())
    (shuffled / "colours.csv").write_text("name,r,g,b\n" + "".join(lines))
    imported(shuffled, values="colour")
    for sample in entries():
        assert np.array_equal(masks(shuffled)[sample.name], ids_of(sample))


def test_names_from_the_command_line(source):
    (source / "classes.txt").unlink()
    with pytest.raises(UserError, match=r"nothing names the masks' values \(0, 1, 2 and 3.*--classes"):
        imported(source)
    report = imported(source, classes=("a", "b", "c"))
    assert [each.name for each in report.classes] == ["a", "b", "c"]
    assert np.array_equal(masks(source)["image0"], ids_of(entries()[0]))


def test_a_table_of_the_palettes_colours_names_them(source):
    (source / "classes.txt").unlink()
    (source / "colours.json").write_text(
        '{"dog": "#00c80a", "cat": "#804080", "x": "#faaa1e", "background": "#000000"}'
    )
    report = imported(source)
    assert [each.name for each in report.classes] == ["dog", "cat", "x"]
    assert np.array_equal(masks(source)["image0"], np.array([0, 2, 1, 3])[ids_of(entries()[0])])


@pytest.mark.parametrize("deep", [False, True])
def test_numbers_with_gaps(deep, source):
    values = np.array([0, 7, 50, 1000 if deep else 254], np.uint16 if deep else np.uint8)
    for sample in entries():
        save(values[ids_of(sample)], source / "labels" / f"{sample.name}.png")
    (source / "classes.txt").unlink()
    (source / "classes.toml").write_text(f'[values]\n0 = "background"\n7 = "cat"\n50 = "dog"\n{values[3]} = "ignore"\n')
    report = imported(source)
    assert (report.format, [each.name for each in report.classes]) == ("indexed", ["cat", "dog"])
    assert np.array_equal(masks(source)["image2"], np.array([0, 1, 2, 255])[ids_of(entries()[2])])


def test_numbers_that_nothing_names(source, tmp_path):
    (source / "classes.txt").write_text("background\ncat\ndog\n")
    with pytest.raises(
        UserError, match=r"image0.png: the masks hold values that .*classes.txt does not name: 3 is no class"
    ):
        imported(source)
    (source / "classes.txt").rename(source / "unused.md")
    (source / "classes.toml").write_text('[values]\n1 = "cat"\n2 = "dog"\n3 = "cow"\n')
    with pytest.raises(UserError, match=r"4 masks have 1 value that .*classes.toml does not list \(0\)"):
        imported(source)
    assert not (tmp_path / "out").exists()


def test_a_first_name_that_may_be_zero(source):
    (source / "classes.txt").write_text("sky\ncat\ndog\nhot dog\n")
    with pytest.raises(UserError, match=r"hold 0 to 3, .* the first of 4 names, 'sky', .* --first 0 .* or --first 1"):
        imported(source)
    assert len(list(source.with_name("out-readings").iterdir())) == 2
    report = imported(source, first="0")
    assert ([each.images for each in report.classes], report.background) == ([4, 4, 4, 4], 0)
    assert np.array_equal(masks(source)["image0"], ids_of(entries()[0]) + 1)


def test_a_list_of_another_program_may_leave_out_what_is_ignored(source):
    """SegNet's CamVid has 11 names, the masks hold 0 to 11."""
    (source / "classes.txt").unlink()
    (source / "labels.txt").write_text("cat\ndog\nhot dog\n")
    with pytest.raises(UserError, match=r"hold 0 to 3, .* the first of 3 names, 'cat', .* --first 0 .* or --first 1"):
        imported(source)
    (source / "labels.txt").write_text("sky\ncat\ndog\nvoid\n")
    report = imported(source, first="0")
    assert [each.name for each in report.classes] == ["sky", "cat", "dog"]
    assert report.ignored == sum(int((ids_of(sample) == 3).sum()) for sample in entries())
    assert '3 = "ignore"' in source.with_name("out").joinpath("source_classes.toml").read_text()


def test_numbers_beyond_names_that_begin_at_zero(source):
    (source / "classes.txt").write_text("sky\ncat\ndog\n")
    with pytest.raises(
        UserError, match=r"classes.txt does not name: 3; its first name is that of 0, so add a line .*; or list them"
    ):
        imported(source, first="0")


def test_numbered_names_leave_no_question(source):
    (source / "classes.txt").write_text("1: sky\n2: cat\n3: dog\n4: hot dog\n")
    assert [each.images for each in imported(source).classes] == [4, 4, 4, 0]


def test_greys_in_three_channels_and_ignored_pixels(source):
    for sample in entries():
        ids = ids_of(sample).copy()
        ids[:2] = 255
        save(np.stack([ids] * 3, axis=-1), source / "labels" / f"{sample.name}.png")
    report = imported(source)
    assert (report.format, report.ignored) == ("indexed", 4 * 2 * 112)
    assert np.array_equal(masks(source)["image0"][2:], ids_of(entries()[0])[2:])


def test_one_mask_in_colour_among_numbers(source):
    save(in_colour(ids_of(entries()[0])), source / "labels" / "image0.png")
    with pytest.raises(UserError, match=r"image0.png is in colour, .*image1.png holds numbers"):
        imported(source, format="indexed")


def test_two_masks_of_one_image(source):
    (source / "labels" / "image0_mask.png").write_bytes((source / "labels" / "image0.png").read_bytes())
    with pytest.raises(UserError, match=r"images/image0.jpg has two masks"):
        imported(source)


def test_jpeg_keeps_no_numbers(source):
    for file in list((source / "labels").iterdir()):
        Image.fromarray(np.asarray(Image.open(file)) * 80).save(file.with_suffix(".jpg"))
        file.unlink()
    with pytest.raises(UserError, match=r"image0.jpg: JPEG changes the numbers in a mask: export the masks as PNG"):
        imported(source)


def test_lists_of_the_voc_layout_divide_the_images(source):
    (source / "images").rename(source / "JPEGImages")
    (source / "labels").rename(source / "SegmentationClass")
    lists = source / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for name, numbers in (("train", "01"), ("val", "2"), ("trainval", "012")):
        (lists / f"{name}.txt").write_text("".join(f"image{i}\n" for i in numbers))
    report = imported(source)
    assert (report.format, report.images) == ("indexed", {"train": 2, "val": 1})
    assert reasons(report) == {"images that no list of a split names": 1}


def test_lists_with_paths_of_another_machine(source):
    for name, numbers in (("train", "012"), ("val", "3")):
        lines = (f"/SegNet/x/{name}/image{i}.jpg /SegNet/x/{name}annot/image{i}.png\n" for i in numbers)
        (source / f"{name}.txt").write_text("".join(lines))
    assert imported(source).images == {"train": 3, "val": 1}


def test_names_and_colours_that_contradict_each_other_are_a_question(source):
    lines = ["background,#000000", "dog,#804080", "cat,#00c80a", "hot dog,#faaa1e"]
    (source / "colours.csv").write_text("\n".join(lines))
    with pytest.raises(
        UserError, match=r"names the value 1 'cat', .*colours.csv its colour 'dog': give --values index"
    ):
        imported(source)
    imported(source, values="index")
    assert np.array_equal(masks(source)["image0"], ids_of(entries()[0]))


def test_a_given_table_of_greys(source, tmp_path):
    for sample in entries():
        grey = np.array([0, 10, 20, 30], np.uint8)[ids_of(sample)]
        save(np.stack([grey] * 3, axis=-1), source / "labels" / f"{sample.name}.png")
    (tmp_path / "t.csv").write_text("background,#000000\na,#0a0a0a\nb,#141414\nc,#1e1e1e\n")
    assert [each.name for each in imported(source, colours=tmp_path / "t.csv").classes] == ["a", "b", "c"]
