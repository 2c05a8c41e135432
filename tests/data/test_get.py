"""Published data sets from a host of one machine into the folder layout that training reads."""

from __future__ import annotations

import importlib.util
import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest
from filelock import FileLock, Timeout

import barm
from barm.data import fetch as fetching
from barm.data import get as module
from barm.data.archives import Dataset, overridden
from barm.data.get import DOWNLOADS, Plan, get, plan
from barm.data.sources import open_source
from barm.errors import UserError

spec = importlib.util.spec_from_file_location("archive_server", Path(__file__).with_name("archive_server.py"))
assert spec is not None
server = importlib.util.module_from_spec(spec)
spec.loader.exec_module(server)


@pytest.fixture
def host(monkeypatch):
    monkeypatch.setattr(fetching, "PAUSE", 0)
    with server.running() as running:
        yield running


@pytest.fixture
def sets(host) -> dict[str, Dataset]:
    return dict(server.datasets(host))


def done(work: Plan, **options: bool) -> tuple[tuple[int, int], list[str]]:
    """The numbers of images, and what was said."""
    lines = list[str]()
    return get(work, lines.append, lambda *_: None, **options), lines


def tree(root: Path) -> set[str]:
    """Folders and files of the first two levels."""
    return {p.relative_to(root).as_posix() for p in (*root.glob("*"), *root.glob("*/*")) if p.suffix != ".png"}


def test_voc_with_its_additional_masks(sets, tmp_path):
    root = tmp_path / "new/VOC2012"
    numbers, lines = done(plan(sets["voc"], root))
    assert numbers == (4, 2)
    folders = {"JPEGImages", "SegmentationClass", "SegmentationClassAug", "ImageSets", "ImageSets/Segmentation"}
    assert {n for n in tree(root) if not n.endswith(".jpg")} == folders
    names = open_source("voc", root, "train").names
    assert list(names) == (root / "ImageSets/Segmentation/train_aug.txt").read_text().split() == server.NAMES[:4]
    assert f"{root}/SegmentationClassAug: 6 files" in lines
    assert any("masks: SegmentationClassAug.zip has no checksum to compare with" in line for line in lines)
    assert any("train_aug.txt: 4 names, all masks that are not in val.txt" in line for line in lines)


def test_ade20k(sets, tmp_path):
    assert done(plan(sets["ade20k"], tmp_path / "ade"))[0] == (2, 1)
    assert open_source("auto", tmp_path / "ade", "val").class_names[1] == "wall"
    assert {"images/training", "annotations/validation", "objectInfo150.txt"} <= tree(tmp_path / "ade")


def test_a_second_call_does_nothing(sets, host, tmp_path):
    done(plan(sets["voc"], tmp_path / "voc"))
    asked, before = len(host.asked), {p: p.stat().st_mtime_ns for p in (tmp_path / "voc").rglob("*")}
    work = plan(sets["voc"], tmp_path / "voc")
    assert (work.complete, work.needed, done(work)) == (True, 0, ((4, 2), []))
    assert len(host.asked) == asked
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "voc").rglob("*")} == before


def test_what_is_there_is_not_fetched_again(sets, host, tmp_path):
    """An official archive unpacked by hand lies in VOCdevkit/VOC2012, and lacks the masks alone."""
    for name, content in server.voc_files().items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    work = plan(sets["voc"], tmp_path)
    assert work.root == tmp_path / "VOCdevkit/VOC2012"
    assert done(work)[0] == (4, 2)
    assert [path for path, *_ in host.asked] == ["/masks.zip"]
    shutil.rmtree(work.root / "SegmentationClass")  # not needed beside the additional masks
    assert plan(sets["voc"], tmp_path).complete


def test_a_list_of_ones_own_stays(sets, tmp_path):
    own = tmp_path / "voc/ImageSets/Segmentation/train_aug.txt"
    done(plan(sets["voc"], tmp_path / "voc"))
    own.write_text(server.NAMES[0])
    shutil.rmtree(tmp_path / "voc/SegmentationClassAug")
    assert done(plan(sets["voc"], tmp_path / "voc"))[0] == (1, 2)
    assert own.read_text() == server.NAMES[0]


def test_voc_alone_stays_usable_where_the_masks_cannot_be_had(sets, host, tmp_path):
    del host.files["/masks.zip"]
    with pytest.raises(UserError, match=r"masks=FILE.*without these masks, training takes VOC's own 1464 images"):
        done(plan(sets["voc"], tmp_path / "voc"))
    assert len(open_source("voc", tmp_path / "voc", "train")) == 2
    host.files["/masks.zip"] = server.zip_of(server.mask_files())
    assert done(plan(sets["voc"], tmp_path / "voc"))[0] == (4, 2)
    assert [path for path, *_ in host.asked] == ["/voc.tar", "/masks.zip", "/masks.zip"]


def test_an_interrupted_unpacking_leaves_no_tree(sets, host, tmp_path):
    def stop(title: str, *_: object) -> None:
        if title == "voc: unpack":
            raise KeyboardInterrupt

    root = tmp_path / "voc"
    with pytest.raises(KeyboardInterrupt):
        get(plan(sets["voc"], root), lambda line: None, stop)
    assert tree(root) == {DOWNLOADS, f"{DOWNLOADS}/VOCtrainval_11-May-2012.tar"}
    assert done(plan(sets["voc"], root))[0] == (4, 2)
    assert [path for path, *_ in host.asked] == ["/voc.tar", "/masks.zip"]
    assert not (root / DOWNLOADS).exists()


def test_a_damaged_archive_is_removed(sets, host, tmp_path):
    """Without a checksum the unpacking alone tells."""
    whole = host.files["/masks.zip"]
    host.files["/masks.zip"] = whole[:-100]
    with pytest.raises(UserError, match="damaged or cut short"):
        done(plan(sets["voc"], tmp_path / "voc"))
    assert not (tmp_path / "voc/SegmentationClassAug").exists()
    host.files["/masks.zip"] = whole
    assert done(plan(sets["voc"], tmp_path / "voc"))[0] == (4, 2)


def test_archives_of_ones_own_and_those_that_are_kept(sets, host, tmp_path):
    root = tmp_path / "voc"
    done(plan(sets["voc"], root), keep=True)
    kept = root / DOWNLOADS / "SegmentationClassAug.zip"
    archives = overridden(
        sets["voc"].archives, [f"masks={kept}", f"voc={root / DOWNLOADS}/VOCtrainval_11-May-2012.tar"]
    )
    work = plan(replace(sets["voc"], archives=archives), tmp_path / "other")
    assert work.needed == 200_000  # what is unpacked
    assert done(work)[0] == (4, 2)
    assert len(host.asked) == 2
    assert kept.exists()


def test_too_little_space_is_told_before_anything_is_fetched(sets, host, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 0, 100_000))
    with pytest.raises(UserError, match=r"PASCAL VOC 2012 needs 0\.3 MB in .*voc, where 0\.1 MB are free"):
        done(plan(sets["voc"], tmp_path / "voc"))
    assert host.asked == []
    assert not (tmp_path / "voc").exists()


def test_images_that_are_missing_are_told(sets, tmp_path):
    done(plan(sets["voc"], tmp_path / "voc"))
    (tmp_path / "voc/JPEGImages/2007_000001.jpg").unlink()
    with pytest.raises(
        UserError, match=r"is not complete: 1 file of the train split missing, such as .*2007_000001\.jpg"
    ):
        done(plan(sets["voc"], tmp_path / "voc"))


def test_two_processes_do_not_fetch_into_one_folder(sets, tmp_path):
    (tmp_path / "voc" / DOWNLOADS).mkdir(parents=True)
    with (
        FileLock(tmp_path / "voc" / DOWNLOADS / module.LOCK),
        pytest.raises(UserError, match="is being fetched by another process"),
    ):
        done(plan(sets["voc"], tmp_path / "voc"))


def test_a_lock_whose_file_was_removed_is_taken_anew(sets, tmp_path, monkeypatch):
    """A process that ends removes the file after this one has opened it."""
    path, removed, refused = tmp_path / "voc" / DOWNLOADS / module.LOCK, list[Path](), list[bool]()

    class Late(FileLock):
        def acquire(self, *args, **options):
            super().acquire(*args, **options)
            if not removed:
                path.unlink()
                removed.append(path)

    def enter(*_: object) -> None:
        with pytest.raises(Timeout):
            FileLock(path).acquire(timeout=0)
        refused.append(True)

    monkeypatch.setattr(module, "FileLock", Late)
    assert get(plan(sets["voc"], tmp_path / "voc"), lambda line: None, enter) == (4, 2)
    assert removed
    assert refused
    assert not (tmp_path / "voc" / DOWNLOADS).exists()


def test_a_file_in_the_place_of_the_folder(sets, tmp_path):
    (tmp_path / "voc").touch()
    with pytest.raises(UserError, match="is a file: expected a folder"):
        plan(sets["voc"], tmp_path / "voc")


def test_a_function_does_what_the_command_does(sets, tmp_path):
    archives = sets["voc"].archives
    addresses, checksums = [f"{a.name}={a.addresses[0]}" for a in archives], [f"{a.name}=none" for a in archives]
    assert barm.get_data("voc", tmp_path / "voc", addresses=addresses, checksums=checksums) == (4, 2)
    with pytest.raises(UserError, match="no data set 'coco' can be fetched: expected one of voc, ade20k"):
        barm.get_data("coco", tmp_path / "coco")
