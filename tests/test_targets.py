"""Where files are written: in no place of a device, a pipe or a folder, and by two processes at once as by one."""

from __future__ import annotations

import fcntl
import os
import stat
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from barm import writing
from barm.data.index import checked, write_class_list
from barm.data.new_folder import new_folder
from barm.data.saliency import make
from barm.data.saliency.tool import classical
from barm.data.sources import open_source, shapes_disk
from barm.data.sources.shapes_disk import make_shapes
from barm.data.splits import write_lists
from barm.errors import UserError
from barm.predict.paper_figures import figure
from barm.report.build import write_report
from barm.report.compare import write_comparison
from barm.report.figures import draw_lines
from barm.report.results import read_results
from barm.weights.export.formats import export_step
from barm.writing import temporary, write_atomically
from forked import Forked, ended

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
    "map": ("map.png", lambda path, run, data: make._write_map(classical(), image(data), path)),
}


def source(data: Path):
    return open_source("voc", data, "train")


def image(data: Path) -> Path:
    return next((data / "JPEGImages").iterdir())


@pytest.mark.parametrize("name", WRITERS)
def test_a_pipe_stays_where_it_is(name, tiny_run, shapes_voc, tmp_path):
    place, write = WRITERS[name]
    os.mkfifo(tmp_path / place)
    with pytest.raises(
        UserError,
        match=rf"cannot write .*/{place}: it is a named pipe, expected a file or nothing; choose another place",
    ):
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
    with pytest.raises(UserError, match=r"/device: it is a device, expected a file"):
        write_atomically(tmp_path / "device", b"new")
    assert (tmp_path / "device").is_symlink()


def test_a_folder(tmp_path):
    with pytest.raises(UserError, match="it is a folder, expected a file"):
        write_atomically(tmp_path, b"new")


def test_the_command(cli, tiny_run, tmp_path):
    os.mkfifo(tmp_path / "page.html")
    status, _, err = cli("report", tiny_run, "--out", tmp_path / "page.html", "--images", "0", "--quiet")
    assert status == 2
    assert err.count("\n") == 1


def write(path: Path, value: bytes) -> None:
    for _ in range(200):
        write_atomically(path, value * 100_000, flush=False)


def test_two_processes_that_write_one_file(tmp_path):
    """Either is there as a whole at every moment, none fails, and nothing is left beside it."""
    file = tmp_path / "page.html"
    several = [Forked(partial(write, file, value)) for value in (b"a", b"b", b"c")]
    seen = set()
    while any(process.poll() is None for process in several):
        if file.exists():
            seen.add(file.read_bytes())
    assert ended(several) == ([0] * 3, [""] * 3)
    assert seen <= {value * 100_000 for value in (b"a", b"b", b"c")}
    assert [p.name for p in tmp_path.iterdir()] == ["page.html"]


def test_a_file_that_another_process_does_not_finish(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "WAIT", 0.1)
    with (tmp_path / "page.html.tmp").open("wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(UserError, match=r"page\.html is being written by another process: wait for it"):
            write_atomically(tmp_path / "page.html", b"new")
    write_atomically(tmp_path / "page.html", b"new")  # it was killed
    assert [p.name for p in tmp_path.iterdir()] == ["page.html"]


@pytest.mark.parametrize("there", [False, True])
def test_a_folder_that_two_processes_make(there, tmp_path, monkeypatch):
    """The second one took away files of the first."""
    root = tmp_path / "own"
    if there:
        root.mkdir()

    def make() -> None:
        with new_folder(root) as slow:
            (slow / "classes.txt").write_text("slow")
            (slow / "images").mkdir()
            with new_folder(root) as quick:
                (quick / "classes.txt").write_text("quick")

    with pytest.raises(UserError, match="own has been written by another process meanwhile"):
        make()
    assert [p.name for p in root.iterdir()] == ["classes.txt"]
    assert (root / "classes.txt").read_text() == "quick"
    assert [p.name for p in tmp_path.iterdir()] == ["own"]


def test_data_that_two_processes_generate(tmp_path, monkeypatch):
    make_one, whole = shapes_disk._write, []

    def slow(beside: Path, *words) -> None:
        make_one(beside, *words)
        monkeypatch.setattr(shapes_disk, "_write", make_one)
        make_shapes(tmp_path / "data", num_classes=2, num_train=2, num_val=1, size=(48, 48))
        whole.extend(sorted(p.name for p in (tmp_path / "data").rglob("*")))

    monkeypatch.setattr(shapes_disk, "_write", slow)
    with pytest.raises(UserError, match="data has been written by another process meanwhile"):
        make_shapes(tmp_path / "data", num_classes=2, num_train=2, num_val=1, size=(48, 48))
    assert sorted(p.name for p in (tmp_path / "data").rglob("*")) == whole
    assert [p.name for p in tmp_path.iterdir()] == ["data"]


def test_what_a_killed_process_left_is_written_anew_where_it_has_another_name(tmp_path):
    """`take_step` links files: the rest of one run's may be the live file of another."""
    (tmp_path / "live").write_bytes(b"of another run")
    (tmp_path / "file.tmp").hardlink_to(tmp_path / "live")
    write_atomically(tmp_path / "file", b"new")
    assert (tmp_path / "live").read_bytes() == b"of another run"
    assert (tmp_path / "file").read_bytes() == b"new"


def hold(path: Path, folder: bool) -> None:
    with temporary(path, folder=folder) as beside:
        (beside / "image" if folder else beside).write_text("half")
        time.sleep(60)


@pytest.mark.parametrize("folder", [False, True])
@pytest.mark.parametrize("name", ["own", "own\nwith [a-z] *", 240 * "n"])
def test_what_a_killed_process_left_unfinished_is_removed_by_the_next_one(name, folder, tmp_path):
    process = Forked(partial(hold, tmp_path / name, folder))
    deadline = time.monotonic() + 60
    while not any(file.is_file() and file.read_text() for file in tmp_path.rglob("*")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    (held,) = tmp_path.iterdir()
    with temporary(tmp_path / name, folder=folder) as other:
        assert other != held
        assert held.exists()  # of a process that lives
    process.kill()
    process.communicate()
    with temporary(tmp_path / name, folder=folder):
        assert not held.exists()
    assert list(tmp_path.iterdir()) == []


def test_what_another_machine_or_somebody_else_made_stays(tmp_path, monkeypatch):
    """Nothing tells a dead process of another machine from a living one; locks of a network folder may be local."""
    process = Forked(partial(hold, tmp_path / "own", True))
    deadline = time.monotonic() + 60
    while not list(tmp_path.rglob("image")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.communicate()
    others = [".own.notes.tmp", ".own.0f0f0f0f.tmp", ".own.old.0f0f0f0f-1-0f0f0f0f.tmp", ".own.12345.tmp"]
    for name in others:
        (tmp_path / name).mkdir()
    with monkeypatch.context() as elsewhere, new_folder(tmp_path / "own") as beside:
        elsewhere.setattr(writing, "place", lambda: "another machine")
        (beside / "classes.txt").write_text("cup")
        with temporary(tmp_path / "own", folder=True):
            assert list(tmp_path.glob(f".own.*-{process.pid}-*.tmp")) == []  # this machine's, removed by `new_folder`
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*others, "own"])


def test_a_folder_with_the_rest_of_another_process_is_empty(tmp_path):
    rest = tmp_path / ".new.0f0f0f0f-1-0f0f0f0f.tmp"
    rest.mkdir()
    with new_folder(tmp_path) as beside:
        (beside / "classes.txt").write_text("cup")
    assert sorted(p.name for p in tmp_path.iterdir()) == [rest.name, "classes.txt"]
    with pytest.raises(UserError, match="is there already"), new_folder(tmp_path):
        pass


def test_a_file_is_not_linked_over_another_one(tmp_path):
    """Copying into a name that is there would write into the file that it is a link of."""
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    (tmp_path / "link").symlink_to("b")
    writing.linked(tmp_path / "a", tmp_path / "same")
    with pytest.raises(FileExistsError):
        writing.linked(tmp_path / "b", tmp_path / "same")
    assert (tmp_path / "a").read_text() == "a"
    (tmp_path / "deep").mkdir()
    writing.linked(tmp_path / "link", tmp_path / "deep/b")
    assert (tmp_path / "deep/b").read_text() == "b"
