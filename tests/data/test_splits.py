"""Images are divided by a hash of their names, and those of one group stay together."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from barm.data.sources import open_source
from barm.data.sources.folder import write_split
from barm.data.splits import divide, write_lists
from barm.errors import UserError

NAMES = [f"film{film}_{frame:03}" for film in range(20) for frame in range(10)]


def test_no_group_is_divided():
    parts = divide(NAMES, 0.25, "(.*)_")
    films = {part: {name.split("_")[0] for name in names} for part, names in parts.items()}
    assert not films["train"] & films["val"]
    assert len(films["train"] | films["val"]) == 20
    assert sorted(parts["train"] + parts["val"]) == sorted(NAMES)


def test_the_share_is_about_what_was_asked_for():
    assert 0.12 < len(divide(NAMES, 0.2)["val"]) / len(NAMES) < 0.28
    assert divide(NAMES, 0)["val"] == []


def test_an_image_that_is_added_moves_no_other():
    before, after = divide(NAMES[:-1])["val"], divide(NAMES)["val"]
    assert set(before) == set(after) - {NAMES[-1]}


def test_both_splits_have_a_member():
    assert [len(part) for part in divide(["a", "b"], 0.01).values()] == [1, 1]
    assert [len(part) for part in divide(["a", "b"], 0.99).values()] == [1, 1]


def test_a_single_image_is_trained_on():
    assert divide(["a"], 0.99) == {"train": ["a"], "val": []}


@pytest.mark.parametrize(
    ("share", "pattern", "message"),
    [
        (1.0, "", "expected a share"),
        (-0.1, "", "expected a share"),
        (0.2, "(", "is no regular expression"),
        (0.2, "shot(.*)", "does not match 'film0_000'"),
        (0.2, "(film)", "puts all images into one group"),
    ],
)
def test_what_cannot_divide_is_refused(share, pattern, message):
    with pytest.raises(UserError, match=message):
        divide(NAMES, share, pattern)


@pytest.fixture
def films(tmp_path):
    for name in NAMES[:60]:
        for kind in ("images", "masks"):
            (tmp_path / "own" / kind).mkdir(parents=True, exist_ok=True)
            Image.new("L", (16, 16), 1).save(tmp_path / "own" / kind / f"{name}.png")
    (tmp_path / "own/classes.txt").write_text("thing\n")
    return tmp_path / "own"


def test_the_command_writes_lists_that_are_read(films, cli):
    status, out, _ = cli("data", "split", films, "--val", "0.3", "--group-by", "(.*)_")
    assert status == 0
    train, val = (open_source("folder", films, split) for split in ("train", "val"))
    assert f"{len(train)} training and {len(val)} validation images" in out
    assert not {n.split("_")[0] for n in train.names} & {n.split("_")[0] for n in val.names}


def test_a_folder_that_is_divided_already_is_refused(films):
    (films / "images/val").mkdir()
    with pytest.raises(UserError, match="divides the images already"):
        write_split(films)
    assert not (films / "train.txt").exists()


def test_images_for_tests_are_in_no_list(films, cli):
    (films / "images/test").mkdir()
    (films / "images/film0_000.png").rename(films / "images/test/film0_000.png")
    assert cli("data", "split", films)[0] == 0
    lists = [(films / f"{part}.txt").read_text() for part in ("train", "val")]
    assert "film0_000" not in "".join(lists)
    assert sum(text.count("\n") for text in lists) == 59


def test_lists_are_replaced_only_where_that_is_asked_for(films, cli):
    (films / "val.txt").write_text("film1_000\n")
    status, _, err = cli("data", "split", films)
    assert (status, err.count("\n")) == (2, 1)
    assert "val.txt divides the images already: keep it, or divide them anew with --overwrite" in err
    assert (films / "val.txt").read_text() == "film1_000\n"
    assert not (films / "train.txt").exists()
    assert cli("data", "split", films, "--overwrite")[0] == 0
    assert (films / "val.txt").read_text().count("\n") > 1


@pytest.mark.parametrize("steps", range(5))
def test_lists_that_are_cut_short_still_divide_the_images(films, steps, monkeypatch):
    """Work stops after some steps of writing; both splits are disjoint then, and together all images."""
    write_split(films, 0.5)
    done = []

    def counted(name):
        method = getattr(Path, name)

        def call(path, *args, **more):
            if len(done) == steps:
                raise KeyboardInterrupt
            done.append(name)
            return method(path, *args, **more)

        return call

    with monkeypatch.context() as patch:
        for name in ("write_text", "unlink", "replace"):
            patch.setattr(Path, name, counted(name))
        with pytest.raises(KeyboardInterrupt):
            write_split(films, 0.2, overwrite=True)
    train, val = (open_source("folder", films, split).names for split in ("train", "val"))
    assert sorted((*train, *val)) == NAMES[:60]


def test_an_empty_split_is_told(films, cli):
    status, out, _ = cli("data", "split", films, "--val", "0")
    assert status == 0
    assert "the val split is empty, and a training needs both" in out


@pytest.mark.parametrize("name", [" a", "a ", "a\nb", "a\u2028b"])
def test_names_that_no_line_can_hold_are_refused(tmp_path, name):
    with pytest.raises(UserError, match="cannot stand in a list of names: rename"):
        write_lists(tmp_path, {"train": ["b"], "val": [name]})
    assert not list(tmp_path.iterdir())
