"""A run that is killed in the pass after a step's training goes on to the same weights and state, bit for bit.

The passes: STAR's statistics, and SegACIL's sums, which are all that its later steps do.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import tomli_w

from barm.api import fit
from barm.config import load_config
from barm.engine.checkpoint.differences import to_table
from barm.engine.checkpoint.directory import CARRIED, RunDirectory

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not hasattr(os, "fork"), reason="the runs are forked")]

WORKER = Path(__file__).with_name("pass_worker.py")
CASES = {  # the step in whose pass the run is killed, and settings: batches of which the pass has more than one
    "star": (1, ("runtime.save_every=4", "increment.batch_size=2")),  # of its 7 updates 3 are done again
    "segacil": (2, ("method.width=64", "increment.batch_size=2")),
}


@pytest.fixture(scope="module")
def runs(shapes_voc, tiny_settings, tmp_path_factory):
    """Folder of the runs; for each method one that was never killed, and one that was."""
    folder, commands = tmp_path_factory.mktemp("passes"), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BARM_CACHE", str(folder / "cache"))
        for method, (step, settings) in CASES.items():
            config = load_config(f"shapes/2-1/{method}", [*tiny_settings, *settings], {"data": {"root": shapes_voc}})
            fit(config, out=folder / method / "whole", quiet=True)
            recipe = folder / f"{method}.toml"
            recipe.write_text(tomli_w.dumps(to_table(config)))
            words = ["train", "--recipe", str(recipe), "--out", str(folder / method / "killed"), "--quiet"]
            commands += [(step, words), (None, [*words, "--resume"])]
        (folder / "commands.json").write_text(json.dumps(commands))
        command = [sys.executable, str(WORKER), str(folder / "commands.json")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads((folder / "commands.json").read_text()) == [-signal.SIGKILL, 0] * 2, done.stderr
    return folder


@pytest.mark.parametrize("method", CASES)
def test_a_killed_pass_is_done_again(method, runs):
    for step in range(3):
        for name in ("model.safetensors", CARRIED):
            whole, killed = (RunDirectory(runs / method / run).step_path(step) / name for run in ("whole", "killed"))
            assert whole.read_bytes() == killed.read_bytes(), (step, name)
    assert not list((runs / method / "killed").glob(".step*"))
