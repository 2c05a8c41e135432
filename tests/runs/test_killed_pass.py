"""A run that is killed in the pass after a step's training goes on to the same weights and state, bit for bit.

The passes: STAR's statistics, and SegACIL's sums, which are all that its later steps do.
"""

from __future__ import annotations

import os
import signal

import pytest
import tomli_w

from barm.api import fit
from barm.config import load_config
from barm.engine import completion
from barm.engine.checkpoint.differences import to_table
from barm.engine.checkpoint.directory import CARRIED, RunDirectory
from forked import Forked, command

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not hasattr(os, "fork"), reason="the runs are forked")]

CASES = {  # the step in whose pass the run is killed, and settings: batches of which the pass has more than one
    "star": (1, ("runtime.save_every=4", "increment.batch_size=2")),  # of its 7 updates 3 are done again
    "segacil": (2, ("method.width=64", "increment.batch_size=2")),
}


@pytest.fixture(scope="module")
def runs(shapes_voc, tiny_settings, tmp_path_factory):
    """Folder of the runs; for each method one that was never killed, and one that was."""
    folder = tmp_path_factory.mktemp("passes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BARM_CACHE", str(folder / "cache"))
        for method, (step, settings) in CASES.items():
            config = load_config(f"shapes/2-1/{method}", [*tiny_settings, *settings], {"data": {"root": shapes_voc}})
            fit(config, out=folder / method / "whole", quiet=True)
            recipe = folder / f"{method}.toml"
            recipe.write_text(tomli_w.dumps(to_table(config)))
            words = ("train", "--recipe", recipe, "--out", folder / method / "killed", "--quiet")
            assert status_of(lambda step=step, words=words: (die_in(step), command(*words)())) == -signal.SIGKILL
            assert status_of(command(*words, "--resume")) == 0
    return folder


def status_of(run):
    """The exit status of a process that does this."""
    process = Forked(run)
    print(process.communicate(120)[1])
    return process.returncode


def die_in(step):
    """Let this process kill itself when the pass of a step asks for its second batch; nothing can catch that."""
    whole = completion.gather

    def gather(method, network, batches, *rest):
        return whole(method, network, deadly(batches) if method.step.index == step else batches, *rest)

    completion.gather = gather


def deadly(batches):
    yield next(batches)
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("method", CASES)
def test_a_killed_pass_is_done_again(method, runs):
    for step in range(3):
        for name in ("model.safetensors", CARRIED):
            whole, killed = (RunDirectory(runs / method / run).step_path(step) / name for run in ("whole", "killed"))
            assert whole.read_bytes() == killed.read_bytes(), (step, name)
    assert not list((runs / method / "killed").glob(".step*"))
