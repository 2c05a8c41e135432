"""What the campaign of hostile files found, one test for each; before it was mended every one of them failed."""

from __future__ import annotations

import io
import os
import subprocess
import time
import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image

from barm.app.viewer import Limits, Refused, read_upload
from barm.cli.common import LONGEST, one_line
from barm.config import load_config
from barm.data.images import read_image
from barm.data.importers import import_data
from barm.data.importers.annotations import ImportOptions
from barm.data.masks import read_mask
from barm.errors import UserError
from barm.reading import Unfit, parse_toml, read_pickled
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
    with pytest.raises(Unfit, match="a key of more than 64 parts"):
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
