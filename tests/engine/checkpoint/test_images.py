"""A run goes on with the images that it was started on, wherever they lie, and says what has changed."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

import barm
from barm.api import fit
from barm.data.base import Sample
from barm.data.fingerprint import changed, fingerprint
from barm.data.index import checked
from barm.data.sources import open_source
from barm.data.sources.shapes_disk import make_shapes
from barm.engine.checkpoint.directory import COUNTS, IMAGES, METRICS, MODEL, RunDirectory
from barm.engine.config import RunConfig
from barm.engine.monitor import Monitor
from barm.errors import Stopped, UserError
from barm.grid import run_grid
from barm.grid_file import GridConfig
from editing import unchecked

SETTINGS = ("base.epochs=2", "increment.epochs=3", "runtime.save_every=1")
LISTS = "ImageSets/Segmentation"


@pytest.fixture(scope="module")
def configured(shapes_voc, tiny_settings):
    """A function that gives the configuration of the runs here, on data in a folder."""

    def configure(root: Path = shapes_voc, method: str = "barm", *more: str) -> RunConfig:
        overrides = [*tiny_settings, *SETTINGS, *more]
        return barm.load_config(f"shapes/2-1/{method}", overrides, {"data": {"root": str(root)}})

    return configure


@pytest.fixture(scope="module")
def runs(configured, tmp_path_factory):
    """Three runs: finished, stopped in step 1 and stopped in step 0; not to be changed."""
    folder = tmp_path_factory.mktemp("runs")
    show = Monitor.progress
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BARM_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        fit(configured(), out=folder / "whole", steps=[0, 1], quiet=True)
        for name, step, iteration in (("later", 1, 2), ("early", 0, 5)):

            def stop(self: Monitor, done: int, *rest, at: tuple[int, int] = (step, iteration)) -> None:
                show(self, done, *rest)
                if (self.step, done) == at:
                    os.kill(os.getpid(), signal.SIGTERM)

            patch.setattr(Monitor, "progress", stop)
            with pytest.raises(Stopped):
                fit(configured(), out=folder / name, steps=[0, 1], quiet=True)
    return folder


@pytest.fixture
def run(runs, tmp_path):
    """A function that gives a copy of one of the runs."""
    return lambda name: Path(shutil.copytree(runs / name, tmp_path / name))


@pytest.fixture
def data(shapes_voc, tmp_path):
    """A copy of the data that a test may change."""
    return Path(shutil.copytree(shapes_voc, tmp_path / "data"))


def names(data: Path, split: str = "train_aug") -> list[str]:
    return (data / LISTS / f"{split}.txt").read_text().split()


def cut(data: Path) -> None:
    (data / LISTS / "train_aug.txt").write_text("\n".join(names(data)[:8]))


def add(data: Path) -> None:
    """A copy of every image, under a new name."""
    for name in names(data):
        for folder, suffix in (("JPEGImages", "jpg"), ("SegmentationClassAug", "png"), ("saliency_map", "png")):
            if (data / folder).is_dir():
                shutil.copy(data / folder / f"{name}.{suffix}", data / folder / f"{name}_copy.{suffix}")
    (data / LISTS / "train_aug.txt").write_text("\n".join([*names(data), *(f"{n}_copy" for n in names(data))]))


def swap_one_for_another(data: Path) -> None:
    """The same number of images, one of them under another name."""
    listed, extra = names(data), "renamed"
    shutil.copy(data / f"JPEGImages/{listed[3]}.jpg", data / f"JPEGImages/{extra}.jpg")
    shutil.copy(data / f"SegmentationClassAug/{listed[3]}.png", data / f"SegmentationClassAug/{extra}.png")
    if (data / "saliency_map").is_dir():
        shutil.copy(data / f"saliency_map/{listed[3]}.png", data / f"saliency_map/{extra}.png")
    (data / LISTS / "train_aug.txt").write_text("\n".join([*listed[:3], extra, *listed[4:]]))


def permute(data: Path) -> None:
    """Every mask's ids 1 to 4 become 2, 3, 4, 1."""
    for file in (data / "SegmentationClassAug").glob("*_train_*.png"):
        ids = np.array(Image.open(file))
        Image.fromarray(np.where((ids > 0) & (ids < 5), ids % 4 + 1, ids).astype(np.uint8)).save(file)


def mirror_a_mask(data: Path) -> None:
    """The classes stay what they were."""
    file = data / f"SegmentationClassAug/{names(data)[0]}.png"
    ImageOps.mirror(Image.fromarray(np.array(Image.open(file)))).save(file)


def brighten(data: Path) -> None:
    file = data / f"JPEGImages/{names(data)[5]}.jpg"
    Image.open(file).point(lambda v: min(255, v + 40)).save(file)


def resize(data: Path) -> None:
    name = names(data)[2]
    for file in (data / f"JPEGImages/{name}.jpg", data / f"SegmentationClassAug/{name}.png"):
        image = Image.open(file)
        (image if image.mode == "RGB" else Image.fromarray(np.array(image))).resize((40, 44), 0).save(file)


def mirror_saliency(data: Path) -> None:
    file = data / f"saliency_map/{names(data)[1]}.png"
    ImageOps.mirror(Image.open(file)).save(file)


def reverse(data: Path) -> None:
    (data / LISTS / "train_aug.txt").write_text("\n".join(reversed(names(data))))


CHANGES: list[tuple[Callable[[Path], None], str]] = [
    (cut, r"training split: 24 images there, 8 here: 'shapes_train_000008' is gone"),
    (add, r"training split: 24 images there, 48 here: 'shapes_train_000000_copy' is new"),
    (swap_one_for_another, r"24 images there, 24 here: 'shapes_train_000003' is gone and 'renamed' is new"),
    (permute, r"training split: 'shapes_train_000000' shows [a-z, -]+ there, [a-z, -]+ here \(\d+ such images\)"),
    (mirror_a_mask, r"training split: 'shapes_train_000000' has another mask\)"),
    (brighten, r"training split: 'shapes_train_000005' has another image\)"),
    (resize, r"training split: 'shapes_train_000002' is 48x48 there, 40x44 here\)"),
    (reverse, r"another order: 'shapes_train_000000' there, 'shapes_train_000023' here"),
]


@pytest.mark.parametrize("name", ["whole", "early"])
@pytest.mark.parametrize(("change", "says"), CHANGES, ids=lambda c: getattr(c, "__name__", ""))
def test_other_training_images_are_refused(change, says, name, run, data, configured):
    change(data)
    path = run(name)
    before = {p: p.read_bytes() for p in path.rglob("*") if p.is_file()}
    with pytest.raises(UserError, match=rf"was started on other images \(.*{says}.*resume with the data") as error:
        fit(configured(data), out=path, resume=True, quiet=True)
    assert "\n" not in str(error.value)
    assert {p: p.read_bytes() for p in path.rglob("*") if p.is_file()} == before


def written_anew(data: Path) -> None:
    """The same ids in masks of other bytes, all files of another time."""
    for file in (data / "SegmentationClassAug").glob("*.png"):
        Image.fromarray(np.array(Image.open(file))).save(file, compress_level=1)
    for file in data.rglob("*"):
        os.utime(file, (1_000_000, 1_000_000))


@pytest.mark.parametrize("name", ["later", "early"])
def test_the_same_images_elsewhere_are_accepted(name, run, runs, data, configured):
    written_anew(data)
    moved = data.rename(data.with_name("elsewhere"))
    path = run(name)
    fit(configured(moved), out=path, steps=[0, 1], resume=True, quiet=True)
    for step in ("step00", "step01"):
        for file in (MODEL, METRICS, IMAGES):
            assert (path / step / file).read_bytes() == (runs / "whole" / step / file).read_bytes()


def other_validation(data: Path) -> None:
    (data / LISTS / "val.txt").write_text("\n".join(names(data, "val")[1:]))


def test_the_validation_split_counts_once_scores_are_stored(run, data, configured):
    other_validation(data)
    for name in ("whole", "later"):
        with pytest.raises(UserError, match=r"validation split: 6 images there, 5 here: 'shapes_val_000000' is gone"):
            fit(configured(data), out=run(name), resume=True, quiet=True)
    early = run("early")
    fit(configured(data), out=early, steps=[0], resume=True, quiet=True)
    assert len(RunDirectory(early).read(0, IMAGES)["measured"][0]["pictures"]) == 5


def forget(path: Path) -> Path:
    """Make a run of a version that kept no record."""
    for file in path.rglob(IMAGES):
        unchecked(file).unlink()
    return path


@pytest.mark.parametrize("name", ["later", "early"])
def test_runs_without_a_record_resume(name, run, runs, configured):
    path = forget(run(name))
    fit(configured(), out=path, steps=[0, 1], resume=True, quiet=True)
    assert (path / "step01" / MODEL).read_bytes() == (runs / "whole/step01" / MODEL).read_bytes()
    assert RunDirectory(path).has(1, IMAGES)


def test_more_updates_than_the_step_has_are_refused(run, data, configured):
    """What a record would have said: here the state itself shows it."""
    cut(data)
    path = forget(run("early"))
    with pytest.raises(UserError, match=r"saved state of step 0 has done 6 updates, but now the step has only 2 "):
        fit(configured(data), out=path, resume=True, quiet=True)
    assert RunDirectory(path).finished_steps() == []
    assert RunDirectory(path).load_partial(0)["iteration"] == 6


def test_a_damaged_record_is_one_line(run, configured):
    path = run("later")
    (path / ".step01.partial" / IMAGES).write_text("{}")
    with pytest.raises(UserError, match=r"pictures\.json is damaged \(it holds something else"):
        fit(configured(), out=path, resume=True, quiet=True)


def test_a_step_0_is_taken_over_from_the_same_images_alone(run, data, configured, tmp_path):
    written_anew(data)
    first = run("whole")
    config = configured(data, "finetune")
    fit(config, out=tmp_path / "moved", start_from=first, steps=[0], quiet=True)
    assert (tmp_path / "moved/step00" / MODEL).read_bytes() == (first / "step00" / MODEL).read_bytes()
    assert RunDirectory(tmp_path / "moved").has(0, IMAGES)
    with pytest.raises(UserError, match=r"trained with another \[data\] \(data\.root is .* there"):
        fit(config, out=tmp_path / "other", start_from=forget(run("later")), steps=[0], quiet=True)
    mirror_a_mask(data)
    with pytest.raises(UserError, match=r"step 0 of .* was trained on other images \(.* has another mask\): train it"):
        fit(config, out=tmp_path / "other", start_from=first, steps=[0], quiet=True)
    assert not (tmp_path / "other").exists()


def test_scores_on_other_images_stand_alone(run, data, shapes_voc):
    """Means over the steps and forgetting compare with counts of the earlier steps: only on the same images."""
    path = run("whole")
    stored = RunDirectory(path).read(1, METRICS)
    written_anew(data)
    assert barm.evaluate(path, data=data, quiet=True) == stored
    other_validation(data)
    found = barm.evaluate(path, data=data, quiet=True)
    assert (found["average_miou"], found["forgetting"]) == (None, None)
    assert found["miou"]["all"] is not None
    assert barm.evaluate(forget(path), data=data, quiet=True)["average_miou"] is None  # nobody knows


def test_another_saliency_map_is_another_image_to_methods_that_use_one(data):
    source = open_source("voc", data, "train")
    before, without = (fingerprint(checked(s)) for s in (source, replace(source, saliency=())))
    mirror_saliency(data)
    after = fingerprint(checked(open_source("voc", data, "train")))
    assert changed(before, after) == "'shapes_train_000001' has another saliency map"
    assert changed(without, after) is None


@pytest.fixture
def extendable(shapes_voc, tiny_settings, tmp_path, data):
    """A finished run on the data, and images of one more class."""
    overrides = [*tiny_settings, *SETTINGS]
    fit("shapes/offline/barm", data=data, out=tmp_path / "known", overrides=overrides, quiet=True)
    more = tmp_path / "more"
    make_shapes(more, layout="folder", num_classes=5, num_train=8, num_val=3, size=(48, 48), seed=4)
    names = [f"other {i}" if i < 5 else "new" for i in range(1, 6)]
    (more / "classes.txt").write_text("\n".join(names))
    return tmp_path / "known", more


def test_an_extension_measures_again_where_the_images_changed(extendable, data, tmp_path):
    known, more = extendable
    first = barm.extend(known, more, ["new"], out=tmp_path / "same", quiet=True)
    assert first["notes"] == []
    taken, trained = (RunDirectory(tmp_path / "same").read(i, IMAGES) for i in (0, 1))
    assert taken == {"measured": trained["measured"]}  # another run has trained it
    other_validation(data)
    second = barm.extend(known, more, ["new"], out=tmp_path / "changed", quiet=True)
    assert any("'shapes_val_000000' is gone)" in note for note in second["notes"])
    same, again = (RunDirectory(tmp_path / n).read(0, COUNTS) for n in ("same", "changed"))
    assert same != again
    for file in (more / "masks/train").glob("*.png"):
        ImageOps.mirror(Image.fromarray(np.array(Image.open(file)))).save(file)
    with pytest.raises(UserError, match=r"was started on other images \(training split: .* has another mask"):
        barm.extend(known, more, ["new"], out=tmp_path / "changed", resume=True, quiet=True)


def test_masks_whose_ids_have_other_names(data, configured, tmp_path):
    """With data.classes the names of the run stay: what its masks mean does not."""
    names = (data / "classes.txt").read_text().split()
    classes = "data.classes=" + json.dumps(names)
    fit(configured(data, "barm", classes), out=tmp_path / "run", steps=[0], quiet=True)
    (data / "classes.txt").write_text("\n".join([names[1], names[0], *names[2:]]))
    says = rf"the masks' class 1 is '{names[0]}' there, '{names[1]}' here"
    with pytest.raises(UserError, match=says):
        fit(configured(data, "barm", classes), out=tmp_path / "run", resume=True, quiet=True)


class Own:
    """A source without files."""

    class_names, palette = ("background", "a", "b", "c", "d"), np.zeros((256, 3), np.uint8)

    def __init__(self, number: int) -> None:
        self.number = number

    def __len__(self) -> int:
        return self.number

    def __getitem__(self, i: int) -> Sample:
        mask = Image.fromarray(np.full((48, 48), i % 4 + 1, np.uint8))
        return Sample(Image.new("RGB", (48, 48), (40 * (i % 6), 90, 60)), mask, {})

    def name(self, i: int) -> str:
        return f"own {i}"

    def classes_in(self, i: int) -> frozenset[int]:
        return frozenset({i % 4 + 1})


def test_sources_of_one_s_own_are_known_by_names_and_classes(configured, tmp_path):
    fit(configured(), data=(Own(16), Own(4)), out=tmp_path / "run", steps=[0], quiet=True)
    fit(configured(), data=(Own(16), Own(4)), out=tmp_path / "run", steps=[1], resume=True, quiet=True)
    with pytest.raises(UserError, match=r"16 images there, 12 here: 'own 12' is gone"):
        fit(configured(), data=(Own(12), Own(4)), out=tmp_path / "run", resume=True, quiet=True)


def test_runs_of_a_grid_have_the_same_images(shapes_voc, data, tiny_settings, tmp_path):
    def grid(*methods: str) -> GridConfig:
        return GridConfig(recipes="shapes", methods=methods, tasks=("3-1",), overrides=(*tiny_settings,))

    said: list[str] = []
    assert run_grid(grid("barm"), tmp_path / "grid", data, said.append, quiet=True)[1] == []
    mirror_a_mask(data)
    finished, failed = run_grid(grid("barm", "finetune"), tmp_path / "grid", data, said.append, quiet=True)
    assert [p.name for p in finished] == ["barm"]
    assert len(failed) == 1
    assert "was trained on other images than" in failed[0]
    assert "'shapes_train_000000' has another mask" in failed[0]


def test_nothing_is_read_for_a_fingerprint(data):
    """All of it is in the index."""
    source = checked(open_source("voc", data, "train"))
    before = fingerprint(source)
    shutil.rmtree(data)
    assert changed(before, fingerprint(source)) is None
    assert json.loads(json.dumps(before)) == before


def test_an_index_of_an_older_version_is_made_anew(data, tmp_path, monkeypatch):
    monkeypatch.setenv("BARM_CACHE", str(tmp_path / "cache"))
    contents = checked(open_source("voc", data, "train")).contents
    (file,) = (tmp_path / "cache").glob("index-*.json")
    entries = json.loads(file.read_text().partition("\n")[2])  # below the checksum
    file.write_text(json.dumps({name: {k: v for k, v in e.items() if k != "content"} for name, e in entries.items()}))
    source = checked(open_source("voc", data, "train"))
    assert source.contents == contents
    assert len(source.contents) == 24
    assert all(len(digest) == 16 for digest in source.contents[0])
