"""What the campaign of hostile files found, one test for each; before it was mended every one of them failed."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import tomli_w
import torch
from PIL import Image
from safetensors.torch import save

from barm.app.viewer import Limits, Refused, read_upload
from barm.cli.common import LONGEST, one_line
from barm.config import load_config
from barm.data.class_names import names_and_colours, parse_classes
from barm.data.class_values import read_class_values
from barm.data.decoded import DecodedSource
from barm.data.images import read_image
from barm.data.importers import import_data
from barm.data.importers.annotations import ImportOptions
from barm.data.importers.yolo import _index
from barm.data.index import checked
from barm.data.masks import read_mask
from barm.data.sources import open_source
from barm.data.unpack import inner_path, members
from barm.engine.checkpoint.directory import RunDirectory
from barm.engine.checkpoint.images import other_measured
from barm.engine.checkpoint.network import rebuild
from barm.errors import UserError
from barm.extension.early import _in_files
from barm.labels import TaskPlan
from barm.models.efficientnet import named_as_in_timm, timm_name
from barm.models.mobilenet import own_name
from barm.reading import Unfit, parse_toml, read_pickled
from barm.weights.importing import find_model
from barm.weights.kind import Kind
from barm.weights.official import _sizes
from barm.weights.recognise import recognise


def postscript(path: Path) -> Path:
    Image.new("RGB", (48, 48), "red").save(path.with_suffix(".eps"), "EPS")
    return path.with_suffix(".eps").rename(path)


@pytest.mark.parametrize("read", [read_image, read_mask])
def test_postscript_starts_no_other_program(read, tmp_path, monkeypatch):
    """Pillow hands it to Ghostscript, whatever the file is called."""
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a program was started"))
    monkeypatch.setattr(subprocess, "check_call", lambda *_, **__: pytest.fail("a program was started"))
    with pytest.raises((UserError, OSError), match=r"cannot identify|cannot be read"):
        read(postscript(tmp_path / "photo.jpg"))


def test_an_error_is_one_short_line_whatever_a_file_holds():
    assert one_line("a\nb \x1b[31mred \u202egnp \ud800") == "a b \\x1b[31mred \\u202egnp \\ud800"
    told = one_line(f"x.toml: {'a' * 10**6}: mend it")
    assert len(told) < LONGEST + 20
    assert told.startswith("x.toml: aaa")
    assert told.endswith("aaa: mend it")


def test_the_command_line_says_no_more_than_that(cli, tmp_path):
    words = ("--recipe", "shapes/2-1/barm", "--data", ".", "--out", "new")
    status, _, told = cli("train", *words, "--set", "\x1b[31m" * 5_000)
    assert status == 2
    assert len(told) < LONGEST + 40
    assert told.count("\n") == 1
    assert told.strip().isprintable()


@pytest.mark.parametrize(
    "text", ["a.b" * 100_000, "x = {" + "a . " * 100_000 + "a = 1}", "[" + '"a".' * 100_000 + "a]"]
)
def test_a_key_of_many_parts_costs_no_time(text, tmp_path):
    """tomllib needs minutes for it."""
    start = time.monotonic()
    with pytest.raises(Unfit, match="a key, or a text, of more than 64 parts"):
        parse_toml(text, tmp_path / "x.toml")
    assert time.monotonic() - start < 2


def test_long_texts_of_a_recipe_are_no_keys(tmp_path):
    (tmp_path / "r.toml").write_text(f'extends = "shapes/2-1/barm"\n[data]\nroot = "{"ab, c.d " * 500}"\n')
    assert str(load_config(tmp_path / "r.toml").data.root).startswith("ab, c.d ab")


def archive(path: Path, change) -> Path:
    """A checkpoint whose archive is written anew."""
    saved = io.BytesIO()
    torch.save({"model_state": {"a": torch.zeros(2_000_000)}}, saved)
    with zipfile.ZipFile(saved) as old, zipfile.ZipFile(path, "w") as new:
        for member in old.infolist():
            change(new, member, old.read(member))
    return path


def test_a_checkpoint_that_unpacks_to_more_is_refused(tmp_path):
    """14 megabytes gave a tensor of 3 gigabytes."""
    path = archive(
        tmp_path / "m.pth", lambda new, member, data: new.writestr(member.filename, data, zipfile.ZIP_DEFLATED)
    )
    assert path.stat().st_size < 100_000
    with pytest.raises(Unfit, match="would unpack to 80"):
        read_pickled(path)
    assert recognise(path).family == "damaged"


def test_a_tensor_of_more_values_than_its_file_is_refused(tmp_path):
    """1634 bytes gave a tensor of 10^12 values, a view of one."""
    torch.save({"model_state": {"a": torch.zeros(1).as_strided((10**6, 10**6), (0, 0))}}, tmp_path / "m.pth")
    with pytest.raises(Unfit, match=r"a tensor of the shape \(1000000, 1000000\), more values than the file has"):
        read_pickled(tmp_path / "m.pth")


def test_views_that_share_their_values_are_taken(tmp_path):
    one = torch.arange(12.0)
    held = {"a": one, "b": one.view(3, 4).t(), "c": torch.arange(5).expand(2, 5), "d": [one, {"e": one[2:5]}]}
    torch.save(held, tmp_path / "m.pth")
    found = read_pickled(tmp_path / "m.pth")
    assert torch.equal(found["b"], one.view(3, 4).t())
    assert torch.equal(found["d"][1]["e"], one[2:5])


def test_a_table_of_colours_with_a_cell_of_any_length(tmp_path):
    """The csv module refuses more than 131072 characters, by an error of its own."""
    source = tmp_path / "source"
    for folder in ("train", "train_labels"):
        (source / folder).mkdir(parents=True)
    Image.new("RGB", (48, 48)).save(source / "train/a.png")
    Image.new("RGB", (48, 48)).save(source / "train_labels/a_L.png")
    (source / "class_dict.csv").write_text(f'name,r,g,b\ncat,0,0,0\n"{"a" * 200_000}",1,2,3\n')
    with pytest.raises(UserError, match=r"class_dict\.csv: expected a table of names and colours"):
        import_data(source, tmp_path / "out", ImportOptions(format="colours"))
    assert not (tmp_path / "out").exists()


def test_an_upload_that_is_a_pipe_does_not_hang_the_page(tmp_path):
    os.mkfifo(tmp_path / "image.png")
    with pytest.raises(Refused, match="no file"):
        read_upload(tmp_path / "image.png", Limits())


LONG = "9" * 5000  # more digits than Python turns into a number


@pytest.mark.parametrize("line", [f"{LONG}: cat", f"cat: {LONG}", f"cat {LONG}", f"1: dog\n{LONG}: cat"])
def test_a_class_with_a_number_of_any_length(line):
    """It is a name, or refused in one line; Python's own error on long numbers does not come through."""
    try:
        names = parse_classes(line, Path("classes.txt"))
    except UserError:
        return
    assert "cat" in " ".join(names)


@pytest.mark.parametrize("number", [LONG, "\u00b2", "-1"])
def test_a_mask_value_of_any_length(number, tmp_path):
    (tmp_path / "classes.toml").write_text(f'[values]\n"{number}" = "cat"\n', "utf-8")
    with pytest.raises(UserError, match="expected a mask value of 0 to"):
        read_class_values(tmp_path / "classes.toml")


@pytest.mark.parametrize("task", [f"{LONG}-1", f"1-{LONG}"])
def test_a_task_of_any_length(task):
    with pytest.raises(UserError, match="unknown task"):
        TaskPlan.parse(task, 4)
    assert _sizes("voc", task) == ()


@pytest.mark.parametrize("key", [LONG, "\u00b2"])
def test_outputs_with_numbers_of_any_length(key, tmp_path):
    labels = {"0": "background", "1": "cat", key: "dog"}
    (tmp_path / "config.json").write_text(json.dumps({"id2label": labels}))
    kind = Kind("transformers", "a folder", "")
    assert _in_files(tmp_path, kind) == ("background", "cat")


@pytest.mark.parametrize("name", [f"features.{LONG}.0.weight", "features.\u00b2.weight"])
def test_tensors_with_numbers_of_any_length(name):
    assert own_name(name) == name
    assert timm_name({f"_blocks.{LONG}._project_conv.weight": (1,), "_conv_stem.weight": (1,)}) is None
    assert named_as_in_timm({"_conv_stem.weight": 1, f"_blocks.{LONG}._bn0.weight": 2}, [f"blocks.{LONG}.0.x"])


@pytest.mark.parametrize("index", [LONG, "\u00b2"])
def test_a_class_of_yolo_with_a_number_of_any_length(index):
    with pytest.raises(UserError, match="expected a class's number"):
        _index(index, Path("data.yaml"))


@pytest.mark.parametrize("size", ["\u00b2", f"{LONG}x3", "3x\u00b2"])
def test_a_size_of_any_length(cli, size):
    status, _, told = cli("data", "make", "shapes", "new", "--size", size)
    assert status == 2
    assert "--size expects <width>x<height>" in told


def test_a_member_of_a_zip_without_a_name(tmp_path):
    with zipfile.ZipFile(tmp_path / "own.zip", "w") as packed:
        packed.writestr(zipfile.ZipInfo(""), b"a")
    with pytest.raises(UserError, match="would lie outside the folder"):
        [inner_path(member, tmp_path / "own.zip") for member in members(tmp_path / "own.zip")]


@pytest.mark.parametrize("model", ["3", '"x"', "[]"])
def test_a_network_that_is_no_table(model, tiny_run, tmp_path):
    text = re.sub(r"\[model\].*?\n\[", "[", (tiny_run / "config.toml").read_text(), count=1, flags=re.DOTALL)
    (tmp_path / "config.toml").write_text(f"model = {model}\n{text}")
    with pytest.raises(UserError, match=r"config\.toml is damaged \("):
        RunDirectory(tmp_path).config()


@pytest.mark.parametrize(
    "place", [[0, 47, 49, 1], [0, 49, 48, 1], [48, 48, 48, 1], [0, 48, 48], [0, 48, 48, "1"], "x", None]
)
def test_a_cache_of_decoded_images_of_another_size_is_made_anew(place, shapes_voc, tmp_path, monkeypatch):
    monkeypatch.setenv("BARM_CACHE", str(tmp_path))
    source = checked(open_source("voc", shapes_voc, "train"))
    first = [DecodedSource(source, 10**6)[i].image.tobytes() for i in range(3)]
    (header,) = tmp_path.glob("decoded-*.json")
    known = json.loads(header.read_text())
    known["places"][0] = place
    header.write_text(json.dumps(known))
    assert [DecodedSource(source, 10**6)[i].image.tobytes() for i in range(3)] == first
    assert json.loads(header.read_text())["places"][0][:3] == [0, 48, 48]


def test_records_of_images_that_differ_in_what_nobody_reads():
    """A key more in ``pictures.json`` ended a report with a StopIteration."""
    one = {"names": ["a"], "in_masks": ["a"], "pictures": {"x": {"size": [1, 1], "classes": []}}}
    two = {**one, "pictures": {"x": {"size": [1, 1], "classes": [], "more": 1}}}
    assert other_measured([one], [two]) == "validation split: 'x' has another record"


def test_a_list_of_classes_of_ten_megabytes_is_not_parsed(tmp_path):
    (tmp_path / "classes.txt").write_bytes(b"a" * 10**7)
    start = time.process_time()
    with pytest.raises(UserError, match=r"classes\.txt: has 10 MiB, expected at most 1"):
        names_and_colours(tmp_path, None, ())
    assert time.process_time() - start < 2


@pytest.mark.parametrize("name", [["barm"], {"a": 1}, 3, True])
def test_a_method_whose_name_is_no_text(name, tmp_path):
    table = {"extends": "shapes/2-1/barm", "method": {"name": name}}
    (tmp_path / "r.toml").write_text(tomli_w.dumps(table))
    with pytest.raises(UserError, match="method"):
        load_config(tmp_path / "r.toml")
    with pytest.raises(UserError, match="unknown"):
        rebuild({"method": {"name": name}, "groups": [[1]], "model": {}}, 0, {}, "it")


def test_a_large_image_is_opened_without_a_word_of_the_decoder(tmp_path):
    Image.new("1", (9500, 9500)).save(tmp_path / "large.png")
    code = "import sys; from barm.data.images import open_image; print(open_image(sys.argv[1]).size)"
    words = [sys.executable, "-c", code, str(tmp_path / "large.png")]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert (done.stdout.strip(), done.stderr) == ("(9500, 9500)", "")


@pytest.mark.parametrize(
    ("encoder", "width"), [("resnet18", 10**6), ("resnet18", 2**32), ("mit_b0", 10**5), ("mit_b0", 10**200)]
)
def test_a_description_of_a_network_that_no_memory_holds(encoder, width, tmp_path):
    """A folder of 2 kilobytes asked for a decoder of terabytes; not even sizes of the last three can be computed."""
    pytest.importorskip("segmentation_models_pytorch")
    config = {"_model_class": "Unet", "encoder_name": encoder, "classes": 3, "decoder_channels": [width] * 5}
    config |= {"encoder_depth": 5, "encoder_weights": None, "in_channels": 3, "activation": None}
    (tmp_path / "config.json").write_text(json.dumps(config))
    weights = {"segmentation_head.0.weight": torch.zeros(3, 16, 3, 3), "segmentation_head.0.bias": torch.zeros(3)}
    (tmp_path / "model.safetensors").write_bytes(save(weights, {"format": "pt"}))
    with pytest.raises(UserError, match=r"describes a network of [0-9]+ MiB, but the files beside it have 0"):
        find_model(tmp_path)
