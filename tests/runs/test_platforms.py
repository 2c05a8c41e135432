"""What macOS and Windows lack is not needed: modules, calls, the main thread."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from barm import writing
from barm.api import fit
from barm.config import load_config
from barm.data import loader
from barm.data.decoded import DecodedSource
from barm.engine.checkpoint import directory as store
from barm.engine.checkpoint.directory import RunDirectory
from barm.engine.signals import on_stop
from barm.errors import UserError
from barm.writing import write_atomically
from forked import Forked

LACKING = """
import os, signal, sys
for name in ("fcntl", "resource", "grp", "pwd", "termios", "tty", "pty", "readline"):
    sys.modules[name] = None  # an import of it fails
for name in ("sched_getaffinity", "getuid", "geteuid"):
    delattr(os, name)
"""


def without_unix(program: str, *words: object) -> str:
    """Standard output of a program where nothing is that only Unix has."""
    done = subprocess.run(
        [sys.executable, "-c", LACKING + program, *map(str, words)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_help_without_unix():
    assert "Usage" in without_unix("sys.argv[1:] = ['--help']\nfrom barm.cli import main\nmain()")


@pytest.mark.slow
def test_predict_without_unix(tiny_run, tmp_path):
    image = tmp_path / "image.png"
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(image)
    program = """
import barm
from barm.data.images import read_image
from barm.data.index import cores
from barm.cli import main
assert cores() >= 1
print(barm.load(sys.argv[1]).predict(read_image(sys.argv[2])).shape, flush=True)
sys.argv[:] = ["barm", "predict", sys.argv[1], sys.argv[2], "--out", sys.argv[3], "--quiet"]
main()
"""
    assert without_unix(program, tiny_run, image, tmp_path / "out").startswith("(40, 50)")
    assert list((tmp_path / "out").rglob("*.png"))


def in_a_thread(action) -> None:
    failures = []

    def caught() -> None:
        try:
            action()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=caught)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


def test_fit_in_a_thread(tiny, tmp_path):
    """As a notebook's server runs its cells; with loader processes."""
    fit(tiny(), out=tmp_path / "main", steps=[0], quiet=True)
    in_a_thread(lambda: fit(tiny("barm", "2-1", "runtime.workers=1"), out=tmp_path / "run", steps=[0], quiet=True))
    weights = [(RunDirectory(tmp_path / n).step_path(0) / store.MODEL).read_bytes() for n in ("main", "run")]
    assert weights[0] == weights[1]


def test_signals_are_taken_in_the_main_thread_only():
    noted, before = [], signal.getsignal(signal.SIGTERM)

    def with_handler() -> None:
        with on_stop(noted.append):
            assert signal.getsignal(signal.SIGTERM) is before

    in_a_thread(with_handler)
    with on_stop(noted.append):
        signal.raise_signal(signal.SIGTERM)
        assert noted == [signal.SIGTERM]
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.slow
def test_loaders_that_are_not_forked(shapes_voc, tiny, monkeypatch, tmp_path):
    """Elsewhere than on Linux everything that a loader needs is pickled."""
    config = tiny("barm", "2-1", "data.cache_mb=1")
    whole = fit(config, out=tmp_path / "fork", steps=[0], quiet=True)
    monkeypatch.setattr(loader, "START_METHOD", "spawn")
    runtime = config.runtime.model_copy(update={"workers": 1})
    again = fit(config.model_copy(update={"runtime": runtime}), out=tmp_path / "spawn", steps=[0], quiet=True)
    assert again == whole


def test_a_cache_is_pickled_by_its_name(shapes_voc):
    import pickle

    from barm.data.index import checked
    from barm.data.sources import open_source

    source = DecodedSource(checked(open_source("voc", shapes_voc, "train")), 1 << 20)
    content = pickle.dumps(source)
    assert len(content) < source.pixels.size / 4
    again = pickle.loads(content)
    assert isinstance(again.pixels, np.memmap)
    assert np.array_equal(np.asarray(again[3].image), np.asarray(source[3].image))


@pytest.fixture
def windows(monkeypatch):
    """Windows opens no folders, flushes no file that was opened for reading, and renames onto no file."""

    def opened(path, flags):
        if os.path.isdir(path):
            raise PermissionError(13, "Permission denied", str(path))
        assert flags == os.O_RDWR
        return os.open(path, flags)

    def rename(self, target):
        if Path(target).exists():
            raise FileExistsError(183, "Cannot create a file when that file already exists", str(target))
        os.rename(self, target)

    system = SimpleNamespace(name="nt", open=opened, fsync=os.fsync, close=os.close, O_RDONLY=os.O_RDONLY)
    monkeypatch.setattr(writing, "os", SimpleNamespace(**vars(system), O_RDWR=os.O_RDWR))
    monkeypatch.setattr(writing, "fcntl", None)
    monkeypatch.setattr(Path, "rename", rename)


def test_a_run_on_windows(windows, tmp_path):
    directory = RunDirectory(tmp_path)
    state = {
        "skipped": 0,
        "skipped_in_a_row": 0,
        "memory": [],
        "model": {},
        "optimizer": {},
        "scaler": {},
        "method": {},
    }
    directory.save_partial(0, {**state, "iteration": 1})
    directory.save_partial(0, {**state, "iteration": 2})
    assert directory.load_partial(0) == {**state, "iteration": 2}
    about = {"classes": [], "groups": [], "method": {}, "model": {}}
    directory.save_step(0, {"w": torch.ones(2)}, about, None, None)
    assert directory.finished_steps() == [0]
    for text in (b"first", b"second"):
        write_atomically(tmp_path / "file", text)
    assert (tmp_path / "file").read_bytes() == b"second"


def hold(run: Path) -> None:
    """Keep a run locked, in a process with a child."""
    os.setsid()
    directory = RunDirectory(run)
    directory.open(load_config("shapes/2-1/barm"), {}, resume=False)
    if not os.fork():  # as a loader, which lives on for a moment
        time.sleep(60)
    print("held", flush=True)
    time.sleep(60)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a child that outlives its parent")
def test_a_lock_ends_with_its_process(tmp_path):
    """Refused at once while the other run lives; free at once when it was killed, though its loaders still end."""
    config, run = load_config("shapes/2-1/barm"), tmp_path / "run"
    holder = Forked(lambda: hold(run))
    try:
        while "held" not in holder.out:
            assert holder.poll() is None, holder.err
            time.sleep(0.01)
        began = time.monotonic()
        with pytest.raises(UserError, match="is in use by another run: wait for it or choose another --out"):
            RunDirectory(run).open(config, {}, resume=True)
        assert time.monotonic() - began < 5
        holder.kill()
        holder.communicate()
        directory = RunDirectory(run)
        directory.open(config, {}, resume=True)
        directory.close()
        assert not (run / store.LOCK).exists()
    finally:
        os.killpg(holder.pid, signal.SIGKILL)
