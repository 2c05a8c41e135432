"""No command writes a file in the place of a device, a pipe or a folder: it is told of in one line, and stays."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from barm.data.index import checked, write_class_list
from barm.data.saliency import make
from barm.data.sources import open_source
from barm.data.splits import write_lists
from barm.engine.checkpoint.atomic import write_atomically
from barm.errors import UserError
from barm.predict.paper_figures import figure
from barm.report.build import write_report
from barm.report.compare import write_comparison
from barm.report.figures import draw_lines
from barm.report.results import read_results
from barm.weights.export.formats import export_step

Write = Callable[[Path, Path, Path], object]
WRITERS: dict[str, tuple[str, Write]] = {
    "atomic": ("file", lambda path, run, data: write_atomically(path, b"new")),
    "report": ("page.html", lambda path, run, data: write_report([run], path, images=0)),
    "comparison": ("compare.tex", lambda path, run, data: write_comparison(path.parent, read_results([run]))),
    "chart": ("chart.png", lambda path, run, data: draw_lines(path, {"a": {1: 1.0, 2: 2.0}, "b": {1: 1.0, 2: 2.0}})),
    "figure": ("figure.png", lambda path, run, data: figure("qualitative", [run], [image(data)], path)),
    "export": ("model.safetensors", lambda path, run, data: export_step(run, path)),
    "class list": ("train.txt", lambda path, run, data: write_class_list(path, checked(source(data)))),
    "split": ("train.txt", lambda path, run, data: write_lists(path.parent, {"train": ["a"], "val": ["b"]})),
    "map": ("map.png", lambda path, run, data: make._write(path, b"new")),
}


def source(data: Path):
    return open_source("voc", data, "train")


def image(data: Path) -> Path:
    return next((data / "JPEGImages").iterdir())


@pytest.mark.parametrize("name", WRITERS)
def test_a_pipe_stays_where_it_is(name, tiny_run, shapes_voc, tmp_path):
    place, write = WRITERS[name]
    os.mkfifo(tmp_path / place)
    with pytest.raises(UserError, match=rf"/{place} is a named pipe, expected a file or nothing there: choose another"):
        write(tmp_path / place, tiny_run, shapes_voc)
    assert stat.S_ISFIFO(os.stat(tmp_path / place).st_mode)
    assert [p.name for p in tmp_path.iterdir() if ".tmp" in p.name] == []


def test_links(tmp_path):
    """One to a file or to nothing is replaced, as it always was; one to a device is refused."""
    (tmp_path / "file").write_bytes(b"old")
    for name, leads in {"there": "file", "nowhere": "none"}.items():
        (tmp_path / name).symlink_to(leads)
        write_atomically(tmp_path / name, b"new")
        assert (tmp_path / name).read_bytes() == b"new"
        assert not (tmp_path / name).is_symlink()
    assert (tmp_path / "file").read_bytes() == b"old"
    (tmp_path / "device").symlink_to("/dev/null")
    with pytest.raises(UserError, match=r"/device is a device, expected a file"):
        write_atomically(tmp_path / "device", b"new")
    assert (tmp_path / "device").is_symlink()


def test_a_folder(tmp_path):
    with pytest.raises(UserError, match="is a folder, expected a file"):
        write_atomically(tmp_path, b"new")


def test_the_command(cli, tiny_run, tmp_path):
    os.mkfifo(tmp_path / "page.html")
    status, _, err = cli("report", tiny_run, "--out", tmp_path / "page.html", "--images", "0", "--quiet")
    assert status == 2
    assert err.count("\n") == 1
