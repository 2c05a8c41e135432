"""Decoded images are those of the files, as many as fit."""

from __future__ import annotations

import multiprocessing
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from barm.api import fit
from barm.data import decoded as cache
from barm.data.decoded import DecodedSource
from barm.data.index import cache_folder, checked
from barm.data.loader import same_size_batches
from barm.data.sources import open_source
from barm.engine.checkpoint.directory import RunDirectory
from barm.errors import UserError


def same(a, b) -> bool:
    images = [(a.image, b.image), (a.mask, b.mask), *((a.extras[k], b.extras[k]) for k in b.extras)]
    return set(a.extras) == set(b.extras) and all(
        x.mode == y.mode and np.array_equal(np.asarray(x), np.asarray(y)) for x, y in images
    )


@pytest.mark.parametrize(("limit", "kept"), [(1 << 20, 24), (5 * 48 * 48 * 7, 7), (100, 0)])
def test_the_same_images_up_to_the_limit(limit, kept, shapes_voc):
    source = checked(open_source("voc", shapes_voc, "train"))
    decoded = DecodedSource(source, limit)
    assert len(decoded.places) == kept
    assert all(same(decoded[i], source[i]) for i in range(len(source)))
    files = list(cache_folder().glob("decoded-*.bin"))
    assert all(f.stat().st_size <= limit for f in files if f.stem.endswith(decoded._key()))
    before = {f: f.stat().st_mtime_ns for f in files}
    assert len(DecodedSource(source, limit).places) == kept
    assert {f: f.stat().st_mtime_ns for f in cache_folder().glob("decoded-*.bin")} == before


def test_a_changed_image_is_decoded_anew(shapes_voc, tmp_path):
    source = checked(open_source("voc", shapes_voc, "train"))
    key = DecodedSource(source, 1 << 20)._key()
    stat = source.images[0].stat()
    try:
        os.utime(source.images[0], ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
        assert DecodedSource(source, 1 << 20)._key() != key
    finally:
        os.utime(source.images[0], ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_one_file_per_split(shapes_voc, tmp_path, monkeypatch):
    """Another limit takes the place of the last file, which stays readable for who has it open."""
    monkeypatch.setenv("BARM_CACHE", str(tmp_path))
    source = checked(open_source("voc", shapes_voc, "train"))
    large, small = DecodedSource(source, 1 << 20), DecodedSource(source, 1 << 16)
    assert len(list(tmp_path.glob("decoded-*.bin"))) == len(list(tmp_path.glob("decoded-*.json"))) == 1
    assert len(large.places) > len(small.places) > 0
    assert same(large[23], source[23])
    assert not list(tmp_path.glob("*.tmp"))


def test_a_file_that_another_run_removes_meanwhile(shapes_voc, tmp_path, monkeypatch):
    monkeypatch.setenv("BARM_CACHE", str(tmp_path))
    source = checked(open_source("voc", shapes_voc, "train"))
    remove = cache._remove_others
    monkeypatch.setattr(cache, "_remove_others", lambda path, place: (remove(path, place), path.unlink()))
    decoded = DecodedSource(source, 1 << 20)
    assert all(same(decoded[i], source[i]) for i in range(len(source)))


@pytest.mark.parametrize("harm", ["short", "half a list", "no list"])
def test_a_damaged_file_is_made_anew(harm, shapes_voc, tmp_path, monkeypatch):
    monkeypatch.setenv("BARM_CACHE", str(tmp_path))
    source = checked(open_source("voc", shapes_voc, "train"))
    DecodedSource(source, 1 << 20)
    pixels, about = next(tmp_path.glob("decoded-*.bin")), next(tmp_path.glob("decoded-*.json"))
    if harm == "short":
        pixels.write_bytes(pixels.read_bytes()[:-1])
    elif harm == "half a list":
        about.write_text(about.read_text()[:20])
    else:
        about.unlink()
    decoded = DecodedSource(source, 1 << 20)
    assert all(same(decoded[i], source[i]) for i in range(len(source)))


def test_two_processes_may_make_it_at_once(shapes_voc, tmp_path, monkeypatch):
    monkeypatch.setenv("BARM_CACHE", str(tmp_path))
    source = checked(open_source("voc", shapes_voc, "train"))
    context = multiprocessing.get_context("fork")
    others = [context.Process(target=DecodedSource, args=(source, 1 << 20)) for _ in range(3)]
    for process in others:
        process.start()
    decoded = DecodedSource(source, 1 << 20)
    for process in others:
        process.join()
    assert [p.exitcode for p in others] == [0, 0, 0]
    assert all(same(decoded[i], source[i]) for i in range(len(source)))
    assert all(same(DecodedSource(source, 1 << 20)[i], source[i]) for i in range(len(source)))


def test_a_map_of_another_size_is_refused_and_nothing_is_written(shapes_voc, tmp_path, monkeypatch):
    monkeypatch.setenv("BARM_CACHE", str(tmp_path / "cache"))
    root = shutil.copytree(shapes_voc, tmp_path / "data")
    source = checked(open_source("voc", root, "train"))
    Image.new("L", (24, 30), 255).save(source.saliency[2])
    with pytest.raises(UserError, match="24x30 but its image 48x48"):
        DecodedSource(source, 1 << 20)
    assert not list((tmp_path / "cache").glob("decoded-*"))


def test_training_does_not_depend_on_it(tiny, tmp_path):
    for name, words in (("files", ()), ("cache", ("data.cache_mb=1",))):
        fit(tiny("ssul", "3-1", *words), out=tmp_path / name, steps=[0], quiet=True)
    files, cache = (
        (RunDirectory(tmp_path / n).step_path(0) / "model.safetensors").read_bytes() for n in ("files", "cache")
    )
    assert files == cache


def test_batches_at_native_size_hold_images_of_one_size():
    shapes = [(5, 4), (4, 5), (5, 4), (5, 4), (4, 5)]
    batches = same_size_batches(shapes, 2)
    assert sorted(i for b in batches for i in b) == list(range(5))
    assert all(len({shapes[i] for i in b}) == 1 and len(b) <= 2 for b in batches)
