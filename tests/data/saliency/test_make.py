"""Making the maps of a data set: complete or not at all, of one recipe, and a second call goes on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from barm.data.images import read_image
from barm.data.index import checked
from barm.data.saliency import make
from barm.data.saliency.make import make_maps, make_saliency
from barm.data.saliency.network import SaliencySettings
from barm.data.saliency.record import RECORD, UNKNOWN, Recipe, origin
from barm.data.saliency.tool import Tool
from barm.data.sources import open_source
from barm.data.sources.shapes_disk import make_shapes
from barm.errors import Failed, Stopped, UserError

NAMES = [f"shapes_train_00000{i}" for i in range(6)]


def brightness(threshold: float = 0.5, calls: list[int] | None = None) -> Tool:
    """A tool that marks bright pixels, and notes its calls."""

    def saliency(image):
        if calls is not None:
            calls.append(1)
        return image.mean(2, dtype=np.float32) / 255

    settings = {"threshold": f"{threshold:g}"}
    return Tool(Recipe(tool="brightness", version="1", settings=settings), saliency, threshold)


def maps_in(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.rglob("*.png"))


def test_a_networks_maps_are_those_that_training_reads(folder, onnx_file):
    settings = SaliencySettings(size="native", mean=(0, 0, 0), std=(1, 1, 1))
    (report,) = make_saliency(folder, onnx_file(), settings, threshold=0.6)
    assert (report.folder, report.made, report.kept) == (folder / "saliency/train", 6, 0)
    source = checked(open_source("folder", folder, "train"))
    for i in range(len(source)):
        bright = np.asarray(read_image(source.images[i])).mean(2) >= 0.6 * 255
        found = np.asarray(source[i].extras["saliency"])
        assert (found > 0).sum() == (found == 255).sum()
        assert ((found > 0) == bright).mean() > 0.999
    assert origin(source.maps_folder) == report.line
    assert json.loads((report.folder / RECORD).read_text())["images"] == 6


def test_without_a_network_opencv_makes_them(folder):
    (report,) = make_saliency(str(folder))
    assert report.line.startswith("OpenCV fine-grained saliency ")
    assert maps_in(report.folder) == NAMES


def test_voc_has_one_folder_for_both_splits(tmp_path):
    root = tmp_path / "voc"
    make_shapes(root, layout="voc", num_classes=3, num_train=4, num_val=2, size=(32, 32), seed=1)
    shutil.rmtree(root / "saliency_map")
    (report,) = make_maps(root, brightness(), split="all")
    assert (report.folder.name, report.made) == ("saliency_map", 6)
    assert len(checked(open_source("voc", root, "train")).saliency) == 4


def test_a_layout_without_maps_is_one_line(tmp_path):
    make_shapes(tmp_path / "ade", layout="ade", num_classes=3, num_train=2, num_val=2, size=(32, 32), seed=1)
    with pytest.raises(UserError, match="is in the ade layout, which has no saliency maps"):
        make_maps(tmp_path / "ade", brightness())


def test_maps_lie_over_the_upright_image(folder):
    path = next((folder / "images/train").glob("*.jpg"))
    exif = Image.Exif()
    exif[274] = 6
    Image.open(path).save(path, exif=exif)
    make_maps(folder, brightness())
    assert Image.open(folder / f"saliency/train/{path.stem}.png").size == (32, 48)


def test_sub_folders_are_mirrored(folder):
    (folder / "images/train/kitchen").mkdir()
    (folder / "masks/train/kitchen").mkdir()
    for kind, suffix in (("images", "jpg"), ("masks", "png")):
        (folder / f"{kind}/train/{NAMES[0]}.{suffix}").rename(folder / f"{kind}/train/kitchen/a.{suffix}")
    make_maps(folder, brightness())
    assert (folder / "saliency/train/kitchen/a.png").is_file()
    assert len(checked(open_source("folder", folder, "train")).saliency) == 6


def test_maps_that_are_there_are_kept(folder):
    make_maps(folder, brightness())
    place, calls = folder / "saliency/train", list[int]()
    kept = place / f"{NAMES[0]}.png"
    kept.write_bytes(b"mine")
    (place / f"{NAMES[1]}.png").unlink()
    (report,) = make_maps(folder, brightness(calls=calls))
    assert (report.made, report.kept) == (1, 5)
    assert kept.read_bytes() == b"mine"
    assert len(calls) == 2  # the trial and the map
    make_maps(folder, brightness(), overwrite=True)
    assert Image.open(kept).size == (48, 32)


def test_maps_of_other_settings_are_not_mixed(folder):
    make_maps(folder, brightness())
    (folder / f"saliency/train/{NAMES[0]}.png").unlink()
    with pytest.raises(
        UserError, match=r"has 5 saliency maps made in another way \(threshold 0\.5, not 0\.7\).*--over"
    ):
        make_maps(folder, brightness(0.7))
    assert len(maps_in(folder / "saliency")) == 5
    (report,) = make_maps(folder, brightness(0.7), overwrite=True)
    assert report.made == 6
    assert origin(report.folder) == "brightness 1, threshold 0.7"


def test_maps_of_unknown_origin_are_not_mixed(folder):
    make_maps(folder, brightness())
    (folder / "saliency/train" / RECORD).unlink()
    with pytest.raises(UserError, match=f"has 6 saliency maps {UNKNOWN}: .*--overwrite"):
        make_maps(folder, brightness())


def test_other_images_maps_are_not_left_beside_new_ones(tmp_path):
    root = tmp_path / "voc"
    make_shapes(root, layout="voc", num_classes=3, num_train=4, num_val=2, size=(32, 32), seed=1)
    before = maps_in(root / "saliency_map")
    with pytest.raises(UserError, match=r"of which 2 are of no image of this split, such as .*--split all"):
        make_maps(root, brightness(), overwrite=True)
    assert maps_in(root / "saliency_map") == before
    assert make_maps(root, brightness(), split="all", overwrite=True)[0].made == 6


@pytest.mark.parametrize(("error", "raised"), [(KeyboardInterrupt(), Stopped), (UserError("x is damaged"), Failed)])
def test_an_interrupted_run_is_finished_by_a_second_one(folder, monkeypatch, error, raised):
    original, seen = read_image, list[Path]()

    def read(path):
        seen.append(path)
        if len(seen) > 3:  # the trial and two maps
            raise error
        return original(path)

    monkeypatch.setattr(make, "read_image", read)
    monkeypatch.setattr(make, "cores", lambda: 1)
    with pytest.raises(raised, match=r"2 of 6 saliency maps are made.*the same command goes on"):
        make_maps(folder, brightness())
    assert len(maps_in(folder / "saliency")) == 2
    assert not list(folder.rglob("*.tmp"))
    monkeypatch.undo()
    (report,) = make_maps(folder, brightness())
    assert (report.made, report.kept) == (4, 2)
    assert json.loads((report.folder / RECORD).read_text())["images"] == 6


def test_an_interrupted_overwriting_leaves_no_old_map(folder, monkeypatch):
    make_maps(folder, brightness())
    monkeypatch.setattr(make, "_write_map", lambda *words: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(Stopped, match="0 of 6"):
        make_maps(folder, brightness(0.7), overwrite=True)
    assert maps_in(folder / "saliency") == []
    monkeypatch.undo()
    assert make_maps(folder, brightness(0.7))[0].made == 6


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_tool_that_fails_at_once_changes_nothing(folder, onnx_file, overwrite):
    if overwrite:
        make_maps(folder, brightness())
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=r"output of shape \(1, 3, 320, 320\), expected") as error:
        make_saliency(folder, onnx_file(np.eye(3)), overwrite=overwrite)
    assert not isinstance(error.value, Failed)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert (folder / "saliency").exists() == overwrite


@pytest.mark.parametrize("threshold", [0, -1, 1.5, float("nan")])
def test_a_threshold_that_parts_nothing_is_one_line(folder, threshold):
    with pytest.raises(UserError, match="a threshold is above 0 and at most 1"):
        make_saliency(folder, threshold=threshold)


def test_settings_without_a_network_are_one_line(folder):
    with pytest.raises(UserError, match="the settings describe a network"):
        make_saliency(folder, settings=SaliencySettings())
