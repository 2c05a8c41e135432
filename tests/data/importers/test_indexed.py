"""Masks of numbers, hostile and strange ones."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from barm.errors import UserError


@pytest.fixture
def source(writers, tmp_path):
    writers.write_indexed(tmp_path / "in", writers.samples())
    return tmp_path / "in"


@pytest.fixture
def shuffled(source, writers):
    """Masks whose palettes number the colours anew in each file, as image programs save them."""
    colours = list(writers.COLOURS.values())
    for i, sample in enumerate(writers.samples()):
        order = [0, *np.roll([1, 2, 3], i).tolist()]
        ids = np.argsort(order)[writers.ids_of(sample)]
        writers.save(writers.with_palette(ids, [colours[k] for k in order]), source / "labels" / f"{sample.name}.png")
    return source


def test_palettes_that_differ_are_a_question_with_an_image_for_each_answer(shuffled, imported, tmp_path):
    with pytest.raises(UserError, match=r"palette's entry 1 is .*: give --values index .* or --values colour"):
        imported(shuffled)
    shown = sorted(file.name for file in (tmp_path / "out-readings").iterdir())
    assert shown == ["values-colour.png", "values-index.png"]
    index, colour = (np.asarray(Image.open(tmp_path / "out-readings" / name)) for name in reversed(shown))
    assert not np.array_equal(index, colour)
    assert not (tmp_path / "out").exists()


def test_the_number_counts(shuffled, imported, masks, writers):
    imported(shuffled, values="index")
    found = masks()["shot1"]
    assert np.array_equal(found > 0, writers.ids_of(writers.samples()[1]) > 0)
    assert not np.array_equal(found, writers.ids_of(writers.samples()[1]))


def test_the_colour_counts(shuffled, imported, masks, writers):
    with pytest.raises(UserError, match=r"nothing names the masks' colours \(#000000"):
        imported(shuffled, values="colour")
    lines = (f"{name},{r},{g},{b}\n" for name, (r, g, b) in writers.COLOURS.items())
    (shuffled / "colours.csv").write_text("name,r,g,b\n" + "".join(lines))
    imported(shuffled, values="colour")
    for sample in writers.samples():
        assert np.array_equal(masks()[sample.name], writers.ids_of(sample))


def test_names_from_the_command_line(source, imported, masks, writers):
    (source / "classes.txt").unlink()
    with pytest.raises(UserError, match=r"nothing names the masks' values \(0, 1, 2 and 3.*--classes"):
        imported(source)
    report = imported(source, classes=("a", "b", "c"))
    assert [each.name for each in report.classes] == ["a", "b", "c"]
    assert np.array_equal(masks()["shot0"], writers.ids_of(writers.samples()[0]))


def test_a_table_of_the_palettes_colours_names_them(source, imported, masks, writers):
    (source / "classes.txt").unlink()
    (source / "colours.json").write_text(
        '{"dog": "#00c80a", "cat": "#804080", "x": "#faaa1e", "background": "#000000"}'
    )
    report = imported(source)
    assert [each.name for each in report.classes] == ["dog", "cat", "x"]
    assert np.array_equal(masks()["shot0"], np.array([0, 2, 1, 3])[writers.ids_of(writers.samples()[0])])


@pytest.mark.parametrize("deep", [False, True])
def test_numbers_with_gaps(deep, source, imported, masks, writers):
    values = np.array([0, 7, 50, 1000 if deep else 254], np.uint16 if deep else np.uint8)
    for sample in writers.samples():
        writers.save(values[writers.ids_of(sample)], source / "labels" / f"{sample.name}.png")
    (source / "classes.txt").unlink()
    (source / "classes.toml").write_text(f'[values]\n0 = "background"\n7 = "cat"\n50 = "dog"\n{values[3]} = "ignore"\n')
    report = imported(source)
    assert (report.format, [each.name for each in report.classes]) == ("indexed", ["cat", "dog"])
    assert np.array_equal(masks()["shot2"], np.array([0, 1, 2, 255])[writers.ids_of(writers.samples()[2])])


def test_numbers_that_nothing_names(source, imported, writers, tmp_path):
    (source / "classes.txt").write_text("background\ncat\ndog\n")
    with pytest.raises(
        UserError, match=r"shot0.png: the masks hold values that .*classes.txt does not name: 3 is no class"
    ):
        imported(source)
    (source / "classes.txt").rename(source / "unused.md")
    (source / "classes.toml").write_text('[values]\n1 = "cat"\n2 = "dog"\n3 = "cow"\n')
    with pytest.raises(UserError, match=r"4 masks have 1 value that .*classes.toml does not list \(0\)"):
        imported(source)
    assert not (tmp_path / "out").exists()


def test_a_first_name_that_may_be_zero(source, imported, masks):
    (source / "classes.txt").write_text("sky\ncat\ndog\nhot dog\n")
    with pytest.raises(UserError, match=r"the masks hold 0 to 3 and there are 4 names, so that 'sky' may be 0 or 1"):
        imported(source)
    (source / "classes.txt").write_text("1: sky\n2: cat\n3: dog\n4: hot dog\n")
    assert [each.images for each in imported(source).classes] == [4, 4, 4, 0]


def test_greys_in_three_channels_and_ignored_pixels(source, imported, masks, writers):
    for sample in writers.samples():
        ids = writers.ids_of(sample).copy()
        ids[:2] = 255
        writers.save(np.stack([ids] * 3, axis=-1), source / "labels" / f"{sample.name}.png")
    report = imported(source)
    assert (report.format, report.ignored) == ("indexed", 4 * 2 * 112)
    assert np.array_equal(masks()["shot0"][2:], writers.ids_of(writers.samples()[0])[2:])


def test_one_mask_in_colour_among_numbers(source, imported, writers):
    writers.save(writers.in_colour(writers.ids_of(writers.samples()[0])), source / "labels" / "shot0.png")
    with pytest.raises(UserError, match=r"shot0.png is in colour, .*shot1.png holds numbers"):
        imported(source, format="indexed")


def test_two_masks_of_one_image(source, imported):
    (source / "labels" / "shot0_mask.png").write_bytes((source / "labels" / "shot0.png").read_bytes())
    with pytest.raises(UserError, match=r"images/shot0.jpg has two masks"):
        imported(source)
