"""The table of published archives, and what replaces its rows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from barm.catalogue import LAYOUTS, recipe_names
from barm.data.archives import ALGORITHMS, DATASETS, Archive, Part, local_path, overridden
from barm.errors import UserError

VOC, MASKS = DATASETS["voc"].archives


def test_every_row_is_whole():
    names = [archive.name for dataset in DATASETS.values() for archive in dataset.archives]
    assert len(names) == len(set(names))
    for dataset in DATASETS.values():
        assert dataset.layout in LAYOUTS
        assert dataset.recipe in recipe_names()
        for archive in dataset.archives:
            assert archive.addresses
            assert all(re.match(r"https?://\S+$", address) for address in (*archive.addresses, archive.home))
            assert archive.checksum is None or len(archive.checksum) in ALGORITHMS
            assert archive.unpacked >= 0.9 * (archive.size or 0)
            assert archive.parts


def test_the_masks_of_voc_make_the_published_training_list():
    """10 582 names: all masks but those of the 1449 validation images (docs/paper.md)."""
    assert MASKS.parts == (Part("SegmentationClassAug", 10582 + 1449),)


def test_another_address_keeps_what_is_published(tmp_path):
    (tmp_path / "a.tar").touch()
    voc, masks = overridden((VOC, MASKS), [f"voc={tmp_path}/a.tar", "masks=http://mirror/m.zip?a=b"])
    assert (voc.local, voc.size, voc.checksum) == (tmp_path / "a.tar", VOC.size, VOC.checksum)
    assert masks.addresses == ("http://mirror/m.zip?a=b",)
    assert masks.local is None


def test_another_checksum_drops_what_else_is_published():
    (voc, masks) = overridden((VOC, MASKS), checksums=["voc=" + "AB" * 32, "masks=none"])
    assert (voc.checksum, voc.size, voc.published) == ("ab" * 32, None, False)
    assert (masks.checksum, masks.published) == (None, False)


@pytest.mark.parametrize(
    ("addresses", "checksums", "told"),
    [
        (["voc"], [], "--address expects NAME=URL such as voc=URL, got 'voc'"),
        (["mask=http://a/b"], [], "there is no archive 'mask'; did you mean 'masks'"),
        (["x=http://a/b"], [], "known: voc, masks"),
        (["voc=nowhere.tar"], [], "no file nowhere.tar"),
        ([], ["voc=12"], "32 (md5), 40 (sha1), 64 (sha256), or none; got '12'"),
        ([], ["voc=" + "g" * 32], "hexadecimal"),
    ],
)
def test_other_words_are_refused(addresses, checksums, told):
    with pytest.raises(UserError, match=re.escape(told)):
        overridden((VOC, MASKS), addresses, checksums)


def test_addresses_of_this_machine(tmp_path):
    assert local_path((tmp_path / "a b.tar").as_uri()) == tmp_path / "a b.tar"
    assert local_path("data/a.tar") == Path("data/a.tar")
    assert local_path("HTTPS://host/a.tar") is None


def test_missing_parts(tmp_path):
    archive = Archive("a", "a.zip", ("a",), "", None, None, 1, "", (Part("x", 1, "z"), Part("y.txt", 1)))
    assert archive.missing(tmp_path) == archive.parts
    (tmp_path / "x").mkdir()
    (tmp_path / "y.txt").touch()
    assert [part.path for part in archive.missing(tmp_path)] == ["x"]  # an empty folder is as good as none
    (tmp_path / "z").mkdir()
    (tmp_path / "z/1").touch()
    assert archive.missing(tmp_path) == ()
