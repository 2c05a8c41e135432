"""Whatever kills one of two training processes ends both, their loaders too, with a line that says which and why."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not hasattr(os, "fork"), reason="the cases are forked")]

WORKER = Path(__file__).with_name("death_worker.py")
CASES = {  # who comes to harm, how, loader processes; its exit status and what the other one says about it
    "first-killed": (0, "sigkill", 1, -signal.SIGKILL, "ended without a word: it was killed"),
    "second-killed": (1, "sigkill", 1, -signal.SIGKILL, "ended without a word: it was killed"),
    "second-stopped": (1, "sigstop", 0, -signal.SIGKILL, "has not answered for 3 s: it was stopped"),
    "second-leaves": (1, "leave", 0, 0, "ended before its work was done"),
    "exception-in-the-data": (1, "exception", 1, 1, "failed: ValueError: "),
    "loader-killed": (1, "loader", 1, 1, "failed: a process that reads images was killed ("),
    "first-fails-alone": (0, "save", 0, 1, "failed: ZeroDivisionError: a fault in the program"),
}


def become(folder, data, settings, names):
    """What becomes of these cases: the modules are imported once for all of them."""
    cases = [{"name": n, "who": who, "deed": deed, "workers": w} for n in names for who, deed, w, *_ in [CASES[n]]]
    (folder / "cases.json").write_text(json.dumps(cases))
    words = ["train", "--recipe", "shapes/2-1/barm", "--data", str(data), "--quiet"]
    more = ("base.epochs=400", "base.batch_size=2", "runtime.log_every=1", "runtime.save_every=4")
    settings = [word for setting in (*settings, *more) for word in ("--set", setting)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "BARM_SILENCE": "3", "BARM_CACHE": str(folder / "cache")}
    done = subprocess.run(
        [sys.executable, str(WORKER), str(folder), *words, *settings], env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return {name: json.loads((folder / f"{name}.json").read_text()) for name in names}


@pytest.fixture(scope="module")
def found(shapes_voc, tiny_settings, tmp_path_factory):
    """What became of every case."""
    return become(tmp_path_factory.mktemp("deaths"), shapes_voc, tiny_settings, list(CASES))


@pytest.mark.parametrize("name", CASES)
def test_one_that_dies_ends_all(name, found):
    check(name, found[name])


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_nor_does_nccl_wait(shapes_voc, tiny_settings, tmp_path):
    names = ["first-killed", "second-killed", "second-stopped", "second-leaves", "exception-in-the-data"]
    settings = [*tiny_settings, "runtime.device=cuda"]
    for name, case in become(tmp_path, shapes_voc, settings, names).items():
        check(name, case)


def check(name, case):
    who, deed, _, status, says = CASES[name]
    assert case["statuses"][who] == status, case
    assert case["statuses"][1 - who] == 1, case
    assert not case["left"], case
    other, own = case["err"][1 - who], case["err"][who]
    assert other.startswith(f"barm: process {who} of 2 ("), other
    assert says in other
    assert other.count("\n") == 1, other
    if deed == "loader":
        assert own.startswith("barm: a process that reads images was killed"), own
    elif deed in ("exception", "save"):
        assert "Traceback" in own
    else:
        assert "barm" not in own  # loaders of a killed process may complain
