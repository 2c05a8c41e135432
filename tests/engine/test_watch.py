"""A process that dies ends all others within the limit, with its message; one that works long does not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from barm.engine import watch
from barm.errors import UserError

WORKER = Path(__file__).with_name("watch_worker.py")
SILENCE = 1.5


def start(
    folder: Path, world: int, deed: str, dying: int = 0, waiting: str = "collective", silence: float = SILENCE
) -> list[subprocess.Popen]:
    processes = []
    for rank in range(world):
        env = {**os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
        env |= {"BARM_SILENCE": str(silence)}
        words = [sys.executable, str(WORKER), str(folder), deed, str(dying), waiting]
        processes.append(subprocess.Popen(words, env=env, stderr=subprocess.PIPE, text=True))
    return processes


def ends(processes: list[subprocess.Popen]) -> list[tuple[int, str]]:
    """Exit status and stderr of each; none may take longer than a few seconds."""
    until = time.monotonic() + 20
    try:
        return [(p.wait(max(0.1, until - time.monotonic())), p.stderr.read()) for p in processes]
    finally:
        for process in processes:
            process.kill()


SAYS = {
    "sigkill": "ended without a word: it was killed",
    "segfault": "ended without a word: it was killed",
    "os_exit": "ended without a word: it was killed",
    "sys_exit": "ended before its work was done",
    "sigstop": "has not answered for 1.5 s",
    "exception": "failed: ValueError: picture 7 is broken",
    "user_error": "failed: no data on this machine",
}
OWN = {"sigkill": -signal.SIGKILL, "segfault": -signal.SIGSEGV, "os_exit": 0, "sys_exit": 0, "sigstop": -signal.SIGKILL}


@pytest.mark.parametrize("dying", [0, 1])
@pytest.mark.parametrize("deed", sorted(SAYS))
def test_one_that_dies_ends_all(deed, dying, tmp_path):
    found = ends(start(tmp_path, 3, deed, dying))
    status, own = found.pop(dying)
    assert status == OWN.get(deed, 2 if deed == "user_error" else 1)
    if deed == "user_error":
        assert own == "barm: no data on this machine\n"
    elif deed == "exception":
        assert own.startswith("Traceback")
        assert own.endswith("ValueError: picture 7 is broken\n")
    else:
        assert own == ""
    for status, err in found:
        assert status == 1
        assert err.startswith(f"barm: process {dying} of 3 (")
        assert SAYS[deed] in err
        assert err.count("\n") == 1, err


@pytest.mark.parametrize("waiting", ["broken", "word"])
@pytest.mark.parametrize("dying", [0, 2])
def test_however_the_others_find_out(dying, waiting, tmp_path):
    """A collective that breaks, and a wait for the others."""
    found = ends(start(tmp_path, 3, "sigkill", dying, waiting))
    assert found.pop(dying) == (-signal.SIGKILL, "")
    for status, err in found:
        assert status == 1
        assert err.startswith(f"barm: process {dying} of 3 (")
        assert err.count("\n") == 1, err


def test_an_error_that_all_have_is_shown_once(tmp_path):
    found = ends(start(tmp_path, 3, "together"))
    assert found == [(2, "barm: all have found the same\n"), (2, ""), (2, "")]


def test_who_lives_is_left_alone(tmp_path):
    """Who leaves before the others; who works longer than anybody may be silent; a job that was suspended and woken."""
    groups = []
    for deed in ("end", "long", "suspend"):
        (tmp_path / deed).mkdir()
        groups.append(start(tmp_path / deed, 3, deed, silence=2.0))
    time.sleep(1)
    for process in groups[-1]:
        process.send_signal(signal.SIGSTOP)
    time.sleep(5)
    for process in groups[-1]:
        process.send_signal(signal.SIGCONT)
    for group in groups:
        assert ends(group) == [(0, "")] * 3


@pytest.mark.parametrize("value", ["0", "-3", "soon", "inf", "nan"])
def test_silence_is_a_number_of_seconds(value, monkeypatch):
    monkeypatch.setenv("BARM_SILENCE", value)
    with pytest.raises(UserError, match=f"BARM_SILENCE is a number of seconds above 0, got '{value}'"):
        watch.silence()
    monkeypatch.delenv("BARM_SILENCE")
    assert watch.silence() == 30
