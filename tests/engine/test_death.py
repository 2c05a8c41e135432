"""Whatever kills one of two training processes ends both, their loaders too, with a line that says which and why."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not hasattr(os, "fork"), reason="the cases are forked")]

WORKER = Path(__file__).with_name("death_worker.py")
CASES = {  # who comes to harm, how, loader processes; its exit status and what the other one says about it
    "first-killed": (0, "sigkill", 1, -signal.SIGKILL, "ended without a word: it was killed"),
    "second-killed": (1, "sigkill", 1, -signal.SIGKILL, "ended without a word: it was killed"),
    "first-stopped": (0, "sigstop", 0, -signal.SIGKILL, "has not answered for 3 s: it was stopped"),
    "second-stopped": (1, "sigstop", 0, -signal.SIGKILL, "has not answered for 3 s: it was stopped"),
    "second-exits": (1, "exit", 0, 0, "ended without a word"),
    "second-leaves": (1, "leave", 0, 0, "ended before its work was done"),
    "exception-in-the-data": (1, "exception", 1, 1, "failed: ValueError: "),
    "loader-killed": (1, "loader", 1, 1, "failed: RuntimeError: DataLoader worker"),
    "first-fails-alone": (0, "save", 0, 1, "failed: ZeroDivisionError: a fault in the program"),
}


@pytest.fixture(scope="module")
def found(shapes_voc, tiny_settings, tmp_path_factory):
    """What became of every case: the processes are started once for all of them."""
    folder = tmp_path_factory.mktemp("deaths")
    cases = [{"name": n, "who": who, "deed": deed, "workers": w} for n, (who, deed, w, *_) in CASES.items()]
    (folder / "cases.json").write_text(json.dumps(cases))
    words = ["train", "--recipe", "shapes/2-1/barm", "--data", str(shapes_voc), "--quiet"]
    more = ("base.epochs=400", "base.batch_size=2", "runtime.log_every=1", "runtime.save_every=4")
    settings = [word for setting in (*tiny_settings, *more) for word in ("--set", setting)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "BARM_SILENCE": "3", "BARM_CACHE": str(folder / "cache")}
    done = subprocess.run(
        [sys.executable, str(WORKER), str(folder), *words, *settings], env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return {name: json.loads((folder / f"{name}.json").read_text()) for name in CASES}


@pytest.mark.parametrize("name", CASES)
def test_one_that_dies_ends_all(name, found):
    who, deed, _, status, says = CASES[name]
    case = found[name]
    assert case["statuses"][who] == status, case
    assert case["statuses"][1 - who] == 1, case
    assert not case["left"], case
    other, own = case["err"][1 - who], case["err"][who]
    assert other.startswith(f"barm: process {who} of 2 ("), other
    assert says in other
    assert other.count("\n") == 1, other
    if deed in ("exception", "loader", "save"):
        assert "Traceback" in own
    else:
        assert own == ""
